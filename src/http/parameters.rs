//! A parameter of a query that an operation does not have is refused, not ignored: whoever
//! misspells `from` would take the total of everything for that of a day. Which ones there are is
//! what the OpenAPI document says.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::http::Uri;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::{ParameterIn, PathItem};
use utoipa::openapi::{OpenApi, RefOr};

use super::Problem;

/// Characters of a name that are shown to whoever sent it.
const SHOWN: usize = 100;

/// The names of the parameters of each path's query, for paths of which no part varies.
pub(super) type Parameters = Arc<BTreeMap<String, Vec<String>>>;

/// Those that the operations of a document have.
pub(super) fn of(document: &OpenApi) -> Parameters {
    let paths = document.paths.paths.iter();
    Arc::new(
        paths
            .map(|(path, item)| (path.clone(), names(item)))
            .collect(),
    )
}

fn names(item: &PathItem) -> Vec<String> {
    let operations = [&item.get, &item.post, &item.put, &item.delete]
        .into_iter()
        .flatten();
    let parameters = operations.flat_map(|operation| operation.parameters.iter().flatten());
    let parameters = parameters.filter_map(|parameter| match parameter {
        RefOr::T(parameter) => Some(parameter),
        RefOr::Ref(_) => None,
    });
    let of_query = parameters.filter(|parameter| parameter.parameter_in == ParameterIn::Query);
    of_query.map(|parameter| parameter.name.clone()).collect()
}

/// Refuses requests with a parameter that their path does not have.
pub(super) async fn check(
    State(known): State<Parameters>,
    request: Request,
    next: Next,
) -> Response {
    // A path of which a part varies has no parameters in its query.
    let known = known.get(request.uri().path());
    match only(request.uri(), known.map(Vec::as_slice).unwrap_or_default()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// That a query has no parameters but these.
///
/// # Errors
/// It has another, or cannot be read.
pub(super) fn only(uri: &Uri, known: &[String]) -> Result<(), Problem> {
    if uri.query().is_none_or(str::is_empty) {
        return Ok(());
    }
    let Query(given) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|rejection| Problem::invalid_parameter(rejection.body_text()))?;
    let Some((unknown, _)) = given.iter().find(|(name, _)| !known.contains(name)) else {
        return Ok(());
    };
    let unknown: String = unknown.chars().take(SHOWN).collect();
    Err(Problem::invalid_parameter(match known {
        [] => format!("there is no parameter {unknown:?}, nor any other"),
        _ => format!(
            "there is no parameter {unknown:?}; there are {}",
            known.join(", ")
        ),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_of_which_a_part_varies_has_a_parameter_in_its_query() {
        use crate::http::{Api, OperatorApi};
        for document in [Api::document(), OperatorApi::document()] {
            for (path, names) in of(&document).iter() {
                assert!(names.is_empty() || !path.contains('{'), "{path}");
            }
        }
        assert_eq!(of(&Api::document())["/payments-summary"], ["from", "to"]);
    }

    #[test]
    fn only_known_parameters_pass() {
        let known = ["from", "to"].map(str::to_owned);
        let passes =
            |query: &str| only(&format!("/x{query}").parse().expect("a URI"), &known).is_ok();
        for query in ["", "?", "?from=1", "?from=1&to=2", "?from=&to="] {
            assert!(passes(query), "{query}");
        }
        for query in ["?form=1", "?from=1&x", "?From=1", "?from%20=1"] {
            assert!(!passes(query), "{query}");
        }
    }
}
