//! The APIs as OpenAPI 3.1 documents, made of the handlers' own annotations, at `/openapi.json`.

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ContactBuilder, InfoBuilder, LicenseBuilder, OpenApi, RefOr, Required, ServerBuilder,
};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::file::{File, JSON};
use super::problem::ProblemBody;

/// Where the document is.
pub const DOCUMENT_PATH: &str = "/openapi.json";

/// The routes, and the document that they make. `tags` are its groups of operations and what they
/// are for.
pub(super) fn split<S: Clone + Send + Sync + 'static>(
    router: OpenApiRouter<S>,
    title: &str,
    description: &str,
    tags: &[(&str, &str)],
) -> (Router<S>, OpenApi) {
    let (routes, mut document) = router.split_for_parts();
    document.info = InfoBuilder::new()
        .title(title)
        .description(Some(description))
        .version(env!("CARGO_PKG_VERSION"))
        .contact(Some(
            ContactBuilder::new()
                .name(Some("The operators of this deployment"))
                .build(),
        ))
        .license(Some(
            LicenseBuilder::new()
                .name(env!("CARGO_PKG_LICENSE"))
                .identifier(Some(env!("CARGO_PKG_LICENSE")))
                .build(),
        ))
        .build();
    let here = ServerBuilder::new()
        .url("/")
        .description(Some("The address that this document comes from"))
        .build();
    document.servers = Some(vec![here]);
    let schemas = &mut document.components.get_or_insert_default().schemas;
    schemas.insert(ProblemBody::name().into_owned(), ProblemBody::schema());
    let tags = tags.iter().map(|(name, description)| {
        TagBuilder::new()
            .name(*name)
            .description(Some(*description))
            .build()
    });
    document.tags = Some(tags.collect());
    (routes, document)
}

/// Says of the parameters of `path` that they may be empty, which utoipa has no word for. A schema
/// that says it makes generators write a class for what is a time.
pub(super) fn allow_empty_parameters(document: &mut OpenApi, path: &str) {
    let get = operation(document, path, |item| &mut item.get);
    for parameter in get
        .into_iter()
        .flat_map(|get| &mut get.parameters)
        .flatten()
    {
        if let RefOr::T(parameter) = parameter {
            let empty = Extensions::from_iter([("allowEmptyValue", true)]);
            parameter.extensions = Some(empty);
        }
    }
}

/// Says that a POST to `path` may come without its body. utoipa makes such a body a union with
/// null, for which generators write clients that cannot leave it out.
pub(super) fn allow_no_body(document: &mut OpenApi, path: &str) {
    let post = operation(document, path, |item| &mut item.post);
    if let Some(RefOr::T(body)) = post.and_then(|post| post.request_body.as_mut()) {
        body.required = Some(Required::False);
    }
}

/// An operation of a path, if the document has it.
fn operation<'a>(
    document: &'a mut OpenApi,
    path: &str,
    of: impl FnOnce(&'a mut PathItem) -> &'a mut Option<Operation>,
) -> Option<&'a mut Operation> {
    document
        .paths
        .paths
        .get_mut(path)
        .and_then(|item| of(item).as_mut())
}

/// The route of a document.
pub(super) fn document<S: Clone + Send + Sync + 'static>(document: &OpenApi) -> Router<S> {
    let json = document
        .to_json()
        .expect("a document of text, numbers and maps with text keys is JSON");
    let file = File::new(JSON, json);
    Router::new().route(
        DOCUMENT_PATH,
        get(async move |headers: HeaderMap| file.reply(&headers)),
    )
}
