//! dev
#![allow(missing_docs)]
mod simulation;
use payment_proxy::route::Policy;
use simulation::chooser::{Rule, Ruled, shipped};
use simulation::scenario::*;
use simulation::{oracle, run::run};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

fn set(policy: &mut Policy, key: &str, v: f64) {
    let d = |v: f64| std::time::Duration::from_secs_f64(v);
    match key {
        "c" => policy.price_per_second = v,
        "a" => policy.price_per_failure = v,
        "p" => policy.price_of_slowness = v,
        "hold" => policy.hold = d(v),
        "k" => policy.headroom = v,
        "floor" => policy.floor = v as u32,
        "drain" => policy.drain_within = d(v),
        "probe" => policy.probe_every = d(v),
        "slowest" => policy.probe_slowest = d(v),
        "open" => policy.failures_to_open = v as u32,
        "close" => policy.successes_to_close = v as u32,
        "trial" => policy.trial_permits = v as u32,
        "half" => policy.forget_half_life = d(v),
        "w" => policy.latency_weight = v,
        "from" => policy.slow_from = d(v),
        "fully" => policy.slow_fully = d(v),
        "cap" => policy.shared_cap = v as u32,
        "regroup" => policy.regroup = d(v),
        "wave" => policy.wave = d(v),
        "wf" => policy.wave_from = d(v),
        "mem" => policy.latency_memory = d(v),
        "relax" => policy.latency_half_life = d(v),
        _ => panic!("{key}"),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let from: u64 = args[0].parse().unwrap();
    let n: u64 = args[1].parse().unwrap();
    let fees: &[f64] = match args[2].as_str() { "pub" => &PUBLIC_FEES, "close" => &CLOSE_FEES, _ => &THREE_FEES };
    if n == 1 && from > 0 {
        let sc = Scenario::random(from, fees);
        let mut pol = Policy::default();
        if let Some(a) = args.get(3) { for kv in a.split(',') { let (k, v) = kv.split_once('=').unwrap(); set(&mut pol, k, v.parse().unwrap()); } }
        let o = run(&sc, true, || shipped(pol.clone(), &sc.fees));
        println!("{} arrivals {} ratio {:.4}", sc.end / 1000000, sc.arrivals.len(), o.net(&sc.fees) / oracle::net(&sc));
        for (i, st) in sc.stages.iter().enumerate() {
            let to = sc.stages.get(i + 1).map_or(sc.end, |s| s.from);
            let arr = sc.arrivals.iter().filter(|a| **a >= st.from && **a < to).count();
            let mut sent = vec![0; sc.fees.len()];
            let mut w = 0;
            for x in &o.samples { if x.at >= st.from && x.at < to { w = x.waiting; for (a, b) in sent.iter_mut().zip(&x.sent) { *a += b } } }
            println!("{:6.1}-{:6.1} arr {arr:6} sent {sent:?} waiting {w} {}", st.from as f64 / 1e6, to as f64 / 1e6,
              st.weather.iter().map(|w| format!("{}ms f{:.2}", w.delay / 1000, w.failing)).collect::<Vec<_>>().join(" | "));
        }
        return;
    }
    if args.iter().any(|a| a == "loss") {
        let mut agg: std::collections::BTreeMap<String, (u64, u64, u64)> = Default::default();
        let mut total = 0;
        for s in from..from + n {
            let sc = Scenario::random(s, fees);
            let o = run(&sc, true, || shipped(Policy::default(), &sc.fees));
            total += sc.arrivals.len();
            let mut prev = 3;
            for (i, st) in sc.stages.iter().enumerate() {
                let to = sc.stages.get(i + 1).map_or(sc.end, |s| s.from);
                let b = |w: &Weather| if w.failing >= 0.5 { "fail".to_string() } else { format!("{}", match w.delay / 1000 { 0..=400 => "fast", 401..=1500 => "mid", _ => "slow" }) };
                for late in [false, true] {
                    let e = agg.entry(format!("{:5}/{:5} {}", b(&st.weather[0]), b(&st.weather[1]), if late { "later" } else { "first 6 s" })).or_default();
                    for x in &o.samples { if x.at >= st.from + 100_000 && x.at < to + 100_000 && (x.at >= st.from + 6_000_000) == late {
                        e.0 += x.sent[0]; e.1 += x.sent[1]; } }
                    if late { e.2 += o.samples.iter().filter(|x| x.at < to).last().map_or(0, |x| x.waiting); }
                }
                prev += 1;
            }
            let _ = prev;
        }
        for (k, v) in agg { println!("{k} cheap {:.4} dear {:.4} waiting-at-end {:.4}", v.0 as f64 / total as f64, v.1 as f64 / total as f64, v.2 as f64 / total as f64); }
        return;
    }
    let verbose = args.iter().any(|a| a == "-v");
    let mut variants: Vec<(String, Option<Rule>, Policy)> = vec![("default".into(), None, Policy::default())];
    for a in &args[3..] {
        if a == "-v" { continue }
        if a == "rules" {
            for r in [Rule::FirstAndWait, Rule::UntilFailing, Rule::UntilSlower, Rule::PlainThompson] {
                variants.push((format!("{r:?}"), Some(r), Policy::default()));
            }
            continue;
        }
        let mut p = Policy::default();
        for kv in a.split(',') {
            let (k, v) = kv.split_once('=').unwrap();
            set(&mut p, k, v.parse().unwrap());
        }
        variants.push((a.clone(), None, p));
    }
    for (name, rule, policy) in &variants {
        let t = std::time::Instant::now();
        let next = AtomicU64::new(0);
        let rows = Mutex::new(vec![]);
        std::thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= n { break }
                    let sc = if from == 0 { Scenario::public(i + 1) } else { Scenario::random(from + i, fees) };
                    let o = match rule {
                        Some(r) => run(&sc, false, || Ruled::new(*r, &sc.fees)),
                        None => run(&sc, false, || shipped(policy.clone(), &sc.fees)),
                    };
                    let b = oracle::net(&sc);
                    rows.lock().unwrap().push((sc.seed, o.net(&sc.fees) / b, o, b, o_fine(&sc, b)));
                });
            }
        });
        let mut rows = rows.into_inner().unwrap();
        rows.sort_by(|a, b| a.1.total_cmp(&b.1));
        let m = rows.len() as f64;
        let mean = rows.iter().map(|r| r.1).sum::<f64>() / m;
        let fine = rows.iter().map(|r| r.1 * (1.0 - 0.35 * r.2.any_audit_disagrees())).sum::<f64>() / m;
        let arrived: u64 = rows.iter().map(|r| r.2.arrived).sum();
        let mut h = simulation::outcome::Histogram::default();
        for r in &rows { h.merge(&r.2.settle_times) }
        println!("{name:28} mean {mean:.4} min {:.4} fined {fine:.4} p50 {:.3} p99 {:.2} left {:.4} fail/p {:.4} disagree {:.4} any {:.3} 429 {} peak {} {:.1}s",
            rows[0].1, h.quantile(0.5), h.quantile(0.99),
            rows.iter().map(|r| r.2.left_over()).sum::<u64>() as f64 / arrived as f64,
            rows.iter().map(|r| r.2.failed).sum::<u64>() as f64 / arrived as f64,
            rows.iter().map(|r| r.2.disagreeing()).sum::<f64>() / m,
            rows.iter().map(|r| r.2.any_audit_disagrees()).sum::<f64>() / m,
            rows.iter().map(|r| r.2.refused).sum::<u64>(),
            rows.iter().map(|r| r.2.peak).max().unwrap(),
            t.elapsed().as_secs_f64());
        if verbose {
            for r in rows.iter().take(8) {
                println!("   seed {} {:.4} left {:.3} settled {:?} fail {:.3}", r.0, r.1, r.2.left_over() as f64 / r.2.arrived as f64, r.2.settled, r.2.failed as f64 / r.2.arrived as f64);
            }
        }
    }
}
fn o_fine(_: &Scenario, _: f64) {}
