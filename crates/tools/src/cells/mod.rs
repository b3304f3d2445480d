//! A deployment of several cells in two PostgreSQL clusters, with two instances, two simulated
//! processors and a load: one cluster is killed and comes back, a cell moves to the other cluster,
//! and every payment is accounted for. The same on Citus, where a cell moves while payments go on.

mod audit;
mod citus;
mod load;
mod site;
mod throughput;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use load::{Load, Outcome};
use site::Site;

/// How long a cell that is back, or has moved, may refuse payments.
const BACK_WITHIN: Duration = Duration::from_secs(30);

/// What a walk is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The program `payment-proxy`.
    pub binary: PathBuf,
    /// Cells, half of them in each cluster: at least two.
    pub cells: usize,
    /// New payments per second, whatever the replies are.
    pub rate: u32,
    /// The time before, during and after each event.
    pub while_it_runs: Duration,
    /// For how long each number of cells is measured afterwards; zero: none is.
    pub measured: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// What should not have been.
    pub wrong: Vec<String>,
    /// Payments that clients were told are accepted.
    pub accepted: usize,
    /// Posts that were answered with 503 while their cell was away.
    pub refused: u32,
}

/// Walks all of it.
///
/// # Errors
/// It could not be run to its end.
pub async fn walk(plan: &Plan) -> anyhow::Result<Report> {
    let mut site = Site::start(plan.binary.clone(), plan.cells).await?;
    let mut wrong = Vec::new();
    let stay: Vec<usize> = site.cells_in(0);
    let go: Vec<usize> = site.cells_in(1);
    let moves = *go.last().context("a cell in the second cluster")?;
    let load = Load::start(site.sockets(), plan.rate, plan.cells);

    load.phase("all is well");
    tokio::time::sleep(plan.while_it_runs).await;
    load.phase("the second cluster is away");
    lose(&mut site, &load, plan, (1, &go), &mut wrong).await?;

    load.phase("the last cell moves");
    let moved = site.move_cell(moves).await?;
    let back = load.until_accepted_in(&[moves], BACK_WITHIN).await?;
    println!(
        "cell {moves} moved in {:.1} s, and took payments again {:.1} s after that",
        moved.as_secs_f64(),
        back.as_secs_f64()
    );

    load.phase("all is well again");
    tokio::time::sleep(plan.while_it_runs).await;
    let load = load.stop().await;
    println!("\n{load}");
    let all = 1..=plan.cells;
    let others = all.clone().filter(|cell| *cell != moves);
    let phases = [
        ("all is well", all.clone().collect()),
        ("the second cluster is away", stay.clone()),
        ("it comes back", stay),
        ("the last cell moves", others.collect()),
        ("all is well again", all.collect()),
    ];
    let report = report(&site, &load, &phases, &go, wrong).await?;

    if !plan.measured.is_zero() {
        site.stop_instances().await;
        throughput::measure(&mut site, plan.measured).await?;
    }
    site.stop().await;
    Ok(report)
}

/// Walks it on a Citus cluster; nothing where the extension is not installed.
///
/// # Errors
/// It could not be run to its end.
pub async fn walk_on_citus(plan: &Plan) -> anyhow::Result<Option<Report>> {
    match citus::is_installed()? {
        true => citus::walk(plan).await.map(Some),
        false => Ok(None),
    }
}

/// Kills a cluster under load, and starts it again, in a phase that has just begun. Those cells are
/// away meanwhile.
async fn lose(
    site: &mut Site,
    load: &Load,
    plan: &Plan,
    (cluster, cells): (usize, &[usize]),
    wrong: &mut Vec<String>,
) -> anyhow::Result<()> {
    site.crash(cluster).await?;
    tokio::time::sleep(plan.while_it_runs).await;
    let told = site.readiness().await?;
    for cell in cells {
        if !told.contains(&format!("\"cell\":{cell}")) {
            wrong.push(format!("readyz does not name cell {cell}: {told}"));
        }
    }
    let summary = site.summary_status().await?;
    if summary != 503 {
        wrong.push(format!(
            "a summary that lacks cells {cells:?} is answered with {summary}"
        ));
    }
    load.phase("it comes back");
    site.restart(cluster).await?;
    let back = load.until_accepted_in(cells, BACK_WITHIN).await?;
    println!(
        "cells {cells:?} took payments again {:.1} s after the start",
        back.as_secs_f64()
    );
    site.until_ready().await
}

/// What came of a walk in which those cells were away in the second phase.
async fn report(
    site: &Site,
    load: &Outcome,
    phases: &[(&str, Vec<usize>)],
    away: &[usize],
    mut wrong: Vec<String>,
) -> anyhow::Result<Report> {
    wrong.extend(refusals(load, phases));
    wrong.extend(audit::audit(site, load).await.context("the audit")?);
    let refused = |cell: &usize| load.refused(phases[1].0, *cell);
    Ok(Report {
        wrong,
        accepted: load.accepted().len(),
        refused: away.iter().map(refused).sum(),
    })
}

/// Posts that were refused of cells that were there from the post to the reply. `phases` are all, in
/// their order, each with the cells that are there.
fn refusals(load: &Outcome, phases: &[(&str, Vec<usize>)]) -> Vec<String> {
    let wrong = load.refusals().filter(|(from, until, cell, _)| {
        let met = &phases[*from..=*until];
        met.iter().all(|(_, cells)| cells.contains(cell))
    });
    let wrong = wrong.map(|(_, until, cell, posts)| {
        format!(
            "{posts} posts of cell {cell} were refused while {}",
            phases[until].0
        )
    });
    wrong.collect()
}
