//! Each fault, and their mix.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use simulator::{Faults, Settings};

use crate::client::{Simulator, client, id, plain, started, until};

async fn with(faults: Faults) -> Simulator {
    started(Settings {
        faults,
        ..Settings::default()
    })
    .await
}

#[tokio::test]
async fn a_lost_reply_leaves_the_payment_stored() {
    let simulator = with(Faults {
        reply_lost: 1.0,
        ..Faults::default()
    })
    .await;
    for n in 0..20 {
        let lost = simulator.post(id(n)).send().await.unwrap_err();
        assert!(!lost.is_connect(), "{lost:?}");
        assert!(simulator.stores(id(n)));
    }
    assert_eq!(simulator.running.processor.injected().reply_lost, 20);
    simulator
        .running
        .processor
        .set_faults(Faults::default())
        .unwrap();
    assert_eq!(simulator.posted(id(0)).await.0, 422);
}

#[tokio::test]
async fn a_lost_request_leaves_nothing_stored() {
    let simulator = with(Faults {
        request_lost: 1.0,
        ..Faults::default()
    })
    .await;
    for n in 0..20 {
        let lost = simulator.post(id(n)).send().await.unwrap_err();
        assert!(!lost.is_connect(), "{lost:?}");
    }
    assert_eq!(simulator.running.processor.payments(), []);
    assert_eq!(simulator.running.processor.injected().request_lost, 20);
}

#[tokio::test]
async fn lost_connections_are_sometimes_closed_and_sometimes_reset() {
    let simulator = with(Faults {
        reply_lost: 1.0,
        ..Faults::default()
    })
    .await;
    let (mut closed, mut reset) = (0, 0);
    for n in 0..40 {
        let lost = simulator.post(id(n)).send().await.unwrap_err();
        match format!("{lost:?}") {
            words if words.contains("ConnectionReset") => reset += 1,
            words if words.contains("IncompleteMessage") => closed += 1,
            words => panic!("neither closed nor reset: {words}"),
        }
    }
    assert!(closed > 5 && reset > 5, "{closed} closed, {reset} reset");
}

#[tokio::test]
async fn a_hanging_reply_leaves_the_payment_stored_and_takes_no_place() {
    let simulator = with(Faults {
        reply_hangs: 1.0,
        ..Faults::default()
    })
    .await;
    let post = simulator.post(id(1)).timeout(Duration::from_millis(300));
    let hung = post.send().await.unwrap_err();
    assert!(hung.is_timeout(), "{hung:?}");
    assert!(simulator.stores(id(1)));
    assert_eq!(simulator.running.processor.in_service(), 0);
}

#[tokio::test]
async fn a_failure_after_storing_looks_like_one_before() {
    for (faults, stored) in [
        (
            Faults {
                fail_after: 1.0,
                ..Faults::default()
            },
            true,
        ),
        (
            Faults {
                fail_before: 1.0,
                ..Faults::default()
            },
            false,
        ),
    ] {
        let simulator = with(faults).await;
        assert_eq!(simulator.posted(id(1)).await, (500, String::new()));
        assert_eq!(simulator.stores(id(1)), stored);
    }
}

#[tokio::test]
async fn a_refusal_by_chance_looks_like_one_by_the_limit() {
    let simulator = with(Faults {
        too_many: 1.0,
        ..Faults::default()
    })
    .await;
    let refused = simulator.post(id(1)).send().await.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "5");
    assert!(!simulator.stores(id(1)));
}

#[tokio::test]
async fn a_slow_payment_takes_longer_and_goes_on_without_its_client() {
    let simulator = with(Faults {
        slow: 1.0,
        slow_ms: 300,
        ..Faults::default()
    })
    .await;
    let begin = Instant::now();
    assert_eq!(simulator.posted(id(1)).await.0, 200);
    assert!(begin.elapsed() >= Duration::from_millis(300));
    let hasty = simulator.post(id(2)).timeout(Duration::from_millis(100));
    assert!(hasty.send().await.unwrap_err().is_timeout());
    assert!(!simulator.stores(id(2)));
    until("the second is stored", || simulator.stores(id(2))).await;
}

#[tokio::test]
async fn a_lookup_can_be_lost() {
    let simulator = with(Faults {
        lookup_lost: 1.0,
        ..Faults::default()
    })
    .await;
    assert_eq!(simulator.posted(id(1)).await.0, 200);
    let lookup = simulator.request(Method::GET, &format!("/payments/{}", id(1)));
    lookup.send().await.unwrap_err();
    assert_eq!(simulator.running.processor.injected().lookup_lost, 1);
}

#[tokio::test]
async fn a_new_connection_can_be_reset() {
    let simulator = with(Faults {
        connection_reset: 1.0,
        ..Faults::default()
    })
    .await;
    simulator.post(id(1)).send().await.unwrap_err();
    assert!(!simulator.stores(id(1)));
    assert_eq!(simulator.running.processor.injected().connection_reset, 1);
}

#[tokio::test]
async fn in_an_outage_connections_are_refused_and_open_ones_are_cut() {
    let simulator = started(Settings::default()).await;
    let pooled = plain().build().unwrap();
    let lookup = format!("{}/payments/{}", simulator.running.url(), id(1));
    assert_eq!(pooled.get(&lookup).send().await.unwrap().status(), 404);
    let hanging = Faults {
        reply_hangs: 1.0,
        ..Faults::default()
    };
    simulator.running.processor.set_faults(hanging).unwrap();
    let open = async {
        let begin = Instant::now();
        let cut = simulator.post(id(2)).send().await.unwrap_err();
        assert!(!cut.is_connect(), "{cut:?}");
        begin.elapsed()
    };
    let outage = async {
        until("the open request is stored", || simulator.stores(id(2))).await;
        let outage = json!({"refuseForMs": 1_000});
        let reply = simulator.manage(Method::PUT, "/admin/faults", outage).await;
        assert_eq!(reply.0, 200, "the request for an outage is answered");
        until("the outage begins", || {
            simulator.running.processor.injected().outages == 1
        })
        .await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        for client in [&simulator.client, &pooled] {
            let refused = client.get(&lookup).send().await.unwrap_err();
            assert!(refused.is_connect(), "{refused:?}");
        }
    };
    let (was_open, ()) = tokio::join!(open, outage);
    assert!(was_open < Duration::from_secs(1), "{was_open:?}");
    let back = async {
        while simulator.client.get(&lookup).send().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), back)
        .await
        .unwrap();
    assert!(simulator.stores(id(2)), "the records outlast an outage");
}

#[tokio::test]
async fn an_outage_can_be_ended_early() {
    let simulator = with(Faults {
        refuse_for_ms: 600_000,
        ..Faults::default()
    })
    .await;
    let health = format!("{}/payments/service-health", simulator.running.url());
    until("the outage begins", || {
        simulator.running.processor.injected().outages == 1
    })
    .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(client().get(&health).send().await.unwrap_err().is_connect());
    simulator.running.processor.refuse_for(Duration::ZERO);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(client().get(&health).send().await.unwrap().status(), 200);
}

/// Every ending and slowness, one in eight each.
fn mix() -> Faults {
    let rate = 0.125;
    Faults {
        reply_lost: rate,
        request_lost: rate,
        fail_after: rate,
        fail_before: rate,
        too_many: rate,
        slow: rate,
        slow_ms: 5,
        ..Faults::default()
    }
}

/// Posts each of these ids three times and notes what came back and what is stored.
async fn outcomes(seed: u64, ids: impl Iterator<Item = u128>) -> Vec<(u128, Vec<u16>, bool)> {
    let simulator = started(Settings {
        faults: mix(),
        seed,
        ..Settings::default()
    })
    .await;
    let mut met = Vec::new();
    for n in ids {
        let mut replies = Vec::new();
        for _ in 0..3 {
            let reply = simulator.post(id(n)).send().await;
            replies.push(reply.map_or(0, |reply| reply.status().as_u16()));
        }
        met.push((n, replies, simulator.stores(id(n))));
    }
    let injected = simulator.running.processor.injected();
    let seen = |status| {
        met.iter()
            .flat_map(|(_, all, _)| all)
            .filter(|s| **s == status)
            .count()
    };
    assert_eq!(injected.reply_lost + injected.request_lost, seen(0) as u64);
    assert_eq!(injected.fail_after + injected.fail_before, seen(500) as u64);
    assert_eq!(injected.too_many, seen(429) as u64);
    assert!(injected.slow > 0);
    met.sort_unstable();
    met
}

#[tokio::test]
async fn the_same_seed_and_ids_meet_the_same_faults_in_any_order() {
    let (forwards, backwards, another) = tokio::join!(
        outcomes(7, 0..80),
        outcomes(7, (0..80).rev()),
        outcomes(8, 0..80)
    );
    assert_eq!(forwards, backwards);
    assert_ne!(forwards, another);
}

#[tokio::test]
async fn faults_are_read_and_changed_over_http() {
    let simulator = started(Settings::default()).await;
    let wanted = json!({"replyLost": 0.25, "slow": 1, "slowMs": 40});
    let (status, reply) = simulator.manage(Method::PUT, "/admin/faults", wanted).await;
    assert_eq!(status, 200);
    let expected = Faults {
        reply_lost: 0.25,
        slow: 1.0,
        slow_ms: 40,
        ..Faults::default()
    };
    assert_eq!(simulator.running.processor.faults(), expected);
    let shown = simulator.admin(Method::GET, "/admin/faults");
    let shown = shown.send().await.unwrap().text().await.unwrap();
    assert_eq!(shown, reply);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["replyLost"], json!(0.25));
    assert_eq!(shown["injected"]["replyLost"], json!(0));
    for (wrong, words) in [
        (json!({"replyLost": 1.5}), "replyLost is 1.5"),
        (
            json!({"replyLost": 0.6, "requestLost": 0.6}),
            "add up to 1.2",
        ),
        (json!({"repliesLost": 0.6}), "unknown field"),
    ] {
        let (status, reply) = simulator.manage(Method::PUT, "/admin/faults", wrong).await;
        assert_eq!(status, 400);
        assert!(reply.contains(words), "{reply}");
    }
    assert_eq!(simulator.running.processor.faults(), expected);
}
