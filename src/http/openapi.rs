//! The APIs as OpenAPI 3.1 documents, made of the handlers' own annotations: at `/openapi.json`, and to
//! read and try at `/docs/`. The page is in the program; it asks no other server for anything.

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{InfoBuilder, LicenseBuilder, OpenApi};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

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
    let page = SwaggerUi::new(PAGE_PATH).config(config);
    Router::new()
        .route(
            DOCUMENT_PATH,
            get(|| async { ([(CONTENT_TYPE, "application/json")], json) }),
        )
        .merge(page)
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
