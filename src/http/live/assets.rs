//! The files of the page, part of the program. There is nothing in them to keep from anybody.

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, Uri};
use axum::response::IntoResponse as _;
use axum::routing::get;

use crate::http::file::{CSS, File, HTML, JAVASCRIPT, SVG};
use crate::http::{OperatorApi, problem};

macro_rules! assets {
    ($($name:literal: $kind:expr),* $(,)?) => {
        &[$(($name, $kind, include_str!(concat!("assets/", $name)))),*]
    };
}

const ASSETS: &[(&str, &str, &str)] = assets! {
    "style.css": CSS,
    "icon.svg": SVG,
    "main.js": JAVASCRIPT,
    "api.js": JAVASCRIPT,
    "feed.js": JAVASCRIPT,
    "format.js": JAVASCRIPT,
    "element.js": JAVASCRIPT,
    "situation.js": JAVASCRIPT,
    "headline.js": JAVASCRIPT,
    "decimal.js": JAVASCRIPT,
    "history.js": JAVASCRIPT,
    "in_doubt.js": JAVASCRIPT,
    "figures.js": JAVASCRIPT,
    "series.js": JAVASCRIPT,
    "time_chart.js": JAVASCRIPT,
    "density.js": JAVASCRIPT,
    "processors.js": JAVASCRIPT,
    "money.js": JAVASCRIPT,
    "dead_letters.js": JAVASCRIPT,
    "decisions.js": JAVASCRIPT,
    "simulation.js": JAVASCRIPT,
};

/// The routes of the page and its files, which anybody may have.
pub(in crate::http) fn page() -> Router<OperatorApi> {
    let index = File::new(HTML, include_str!("assets/index.html"));
    let assets: Vec<(&str, File)> = ASSETS
        .iter()
        .map(|(name, kind, text)| (*name, File::new(kind, *text)))
        .collect();
    // A file that the page names.
    let asset = async move |Path(name): Path<String>, uri: Uri, headers: HeaderMap| match assets
        .iter()
        .find(|(known, _)| *known == name)
    {
        Some((_, file)) => file.reply(&headers),
        None => problem::not_found(uri).await.into_response(),
    };
    Router::new()
        .route(
            "/",
            get(async move |headers: HeaderMap| index.reply(&headers)),
        )
        .route("/assets/{name}", get(asset))
}
