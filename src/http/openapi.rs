//! The APIs as OpenAPI 3.1 documents, made of the handlers' own annotations: at `/openapi.json`, and to
//! read and try at `/docs/`. The page is in the program; it asks no other server for anything.

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{InfoBuilder, LicenseBuilder, OpenApi};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::problem::not_found;

/// Where the document is.
pub const DOCUMENT_PATH: &str = "/openapi.json";
/// Where the page is.
pub const PAGE_PATH: &str = "/docs";

/// The routes, and the document that they make.
pub(super) fn split<S: Clone + Send + Sync + 'static>(
    router: OpenApiRouter<S>,
    title: &str,
    description: &str,
) -> (Router<S>, OpenApi) {
    let (routes, mut document) = router.split_for_parts();
    document.info = InfoBuilder::new()
        .title(title)
        .description(Some(description))
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(
            LicenseBuilder::new()
                .name(env!("CARGO_PKG_LICENSE"))
                .identifier(Some(env!("CARGO_PKG_LICENSE")))
                .build(),
        ))
        .build();
    (routes, document)
}

/// The routes of a document and its page.
pub(super) fn pages<S: Clone + Send + Sync + 'static>(document: &OpenApi) -> Router<S> {
    let json = document
        .to_json()
        .expect("a document of text, numbers and maps with text keys is JSON");
    let json = Bytes::from(json);
    // The page would send the document to a validator on the internet.
    let config = Config::from(DOCUMENT_PATH).validator_url("none");
    let page = Router::from(SwaggerUi::new(PAGE_PATH).config(config));
    Router::new()
        .route(
            DOCUMENT_PATH,
            get(|| async { ([(CONTENT_TYPE, "application/json")], json) }),
        )
        .merge(page.route_layer(from_fn(explain_missing)))
}

/// The page's library says nothing about a file that it does not have.
async fn explain_missing(uri: Uri, request: Request, next: Next) -> Response {
    let reply = next.run(request).await;
    match reply.status() {
        StatusCode::NOT_FOUND => not_found(uri).await.into_response(),
        _ => reply,
    }
}

/// An amount of money: a JSON number with at most two decimals.
pub(crate) struct Amount;

impl PartialSchema for Amount {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Number)
            .description(Some("An amount with at most two decimals"))
            .multiple_of(Some(0.01))
            .examples([19.9])
            .into()
    }
}

impl ToSchema for Amount {}
