//! The files of the page, part of the program. There is nothing in them to keep from anybody.

use axum::Router;
use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::http::{OperatorApi, Problem, problem};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Everything comes from this address, and nothing stands inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

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
    "figures.js": JAVASCRIPT,
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
    Router::new()
        .route("/", get(index))
        .route("/assets/{name}", get(asset))
}

async fn index() -> Response {
    serve(HTML, include_str!("assets/index.html"))
}

/// A file that the page names.
async fn asset(Path(name): Path<String>, uri: axum::http::Uri) -> Response {
    match ASSETS.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, text)) => serve(kind, text),
        None => Problem::into_response(problem::not_found(uri).await),
    }
}

fn serve(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // The next version of the program may stand here the next time.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}
