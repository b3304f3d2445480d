//! `GET /in-doubt`.

use axum::Json;
use axum::extract::State;

use crate::http::problem::{DATABASE, OPERATOR, problems};
use crate::http::{OperatorApi, Problem};
use crate::store::database::in_each;
use crate::store::in_doubt::{self, InDoubt};
use crate::store::queue_statistics::COUNTED;

/// Payments in one reply, at most: the oldest.
const LISTED: i64 = 100;

problems!(pub(super) InDoubtProblems: OPERATOR, DATABASE);

/// The oldest payments in doubt, at most 100
///
/// One processor may have charged them, and has not said so yet. Counted among the oldest 5,000
/// of the queue.
#[utoipa::path(
    get, path = "/in-doubt", tag = "in doubt", operation_id = "listInDoubt",
    responses((status = 200, description = "Oldest first", body = Vec<InDoubt>), InDoubtProblems)
)]
pub(super) async fn list(State(api): State<OperatorApi>) -> Result<Json<Vec<InDoubt>>, Problem> {
    let listed = in_each(&api.cells, |pool| {
        in_doubt::list(pool, None, Some(COUNTED), LISTED)
    });
    Ok(Json(in_doubt::oldest(listed.await?, LISTED)))
}
