//! Variables that are set but empty, and those that lead clients of others to a proxy.

use std::io::Read as _;
use std::net::TcpListener;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::CommandFactory;
use payment_proxy::command::Cli;
use serde_json::json;

use crate::command_line::program;
use crate::metrics::free_address;
use crate::support::{Database, Gateway, eventually, processor, processors};
use crate::traces::Collector;

const TOKEN: &str = "a-token-of-some-length";

/// Every variable that this program or one of its libraries reads.
fn variables() -> Vec<String> {
    fn settings(command: &clap::Command) -> Vec<String> {
        let own = command.get_arguments().filter_map(clap::Arg::get_env);
        let own = own.map(|name| name.to_str().expect("text").to_owned());
        own.chain(command.get_subcommands().flat_map(settings))
            .collect()
    }
    const OF_LIBRARIES: &str = "OTEL_SERVICE_NAME OTEL_RESOURCE_ATTRIBUTES OTEL_TRACES_SAMPLER \
        OTEL_TRACES_SAMPLER_ARG OTEL_EXPORTER_OTLP_HEADERS OTEL_EXPORTER_OTLP_TRACES_HEADERS \
        OTEL_BSP_SCHEDULE_DELAY OTEL_BSP_MAX_QUEUE_SIZE PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE \
        PGPASSWORD PGPASSFILE PGSSLMODE PGSSLROOTCERT PGSSLCERT PGSSLKEY PGOPTIONS PGAPPNAME \
        SSL_CERT_FILE SSL_CERT_DIR";
    let of_libraries = OF_LIBRARIES.split_ascii_whitespace().map(ToOwned::to_owned);
    let mut all = settings(&Cli::command());
    assert!(all.len() > 20, "{all:?}");
    all.extend(of_libraries);
    all
}

#[tokio::test]
async fn variables_that_are_empty_mean_the_same_as_none() {
    let (database, default) = (Database::create().await, processor().await);
    let empty: Vec<(String, &str)> = variables().into_iter().map(|name| (name, "")).collect();
    for command in ["migrate", "status", "summary"] {
        let mut command = program(&database.url, &[command, "--database-url", &database.url]);
        let Output { status, stderr, .. } = command
            .envs(empty.iter().cloned())
            .output()
            .await
            .expect("it starts");
        let said = String::from_utf8_lossy(&stderr);
        assert!(matches!(status.code(), Some(0 | 1)), "{command:?}: {said}");
    }
    // What the gateway of a test is given is not empty, and everything else is. Whom to trust by
    // TLS is found out at the start.
    let processors = processors(&[&default]) + " other,0.15,https://127.0.0.1:1";
    let kept = ["LISTEN", "DATABASE_URL", "PROCESSORS"];
    let empty = empty
        .iter()
        .filter(|(name, _)| !kept.contains(&name.as_str()));
    let empty: Vec<(&str, &str)> = empty.map(|(name, value)| (name.as_str(), *value)).collect();
    let gateway = Gateway::start(&database, &processors, &empty).await;
    let ids = gateway.post_many(3).await;
    gateway.until_settled(&ids).await;
    // Purging is off by default, and without a token so are operators.
    assert_eq!(gateway.post_body("/purge-payments", "").await.status(), 403);
    assert!(
        !gateway.log().contains("listening for operators"),
        "{}",
        gateway.log()
    );
}

/// Nobody should come here.
fn proxy() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            counted.fetch_add(1, Ordering::Relaxed);
            let _ = client.read(&mut [0; 1024]);
        }
    });
    (url, calls)
}

#[tokio::test]
async fn proxy_variables_lead_no_token_and_no_call_elsewhere() {
    let (database, default) = (Database::create().await, processor().await);
    let (proxy, calls) = proxy();
    let (collector, collector_url) = Collector::start().await;
    let operators = free_address();
    let proxies = [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
    ];
    let mut settings: Vec<(&str, &str)> = proxies.map(|name| (name, proxy.as_str())).into();
    settings.extend([
        ("NO_PROXY", ""),
        ("OPERATOR_LISTEN", &operators),
        ("OPERATOR_TOKEN", TOKEN),
        ("SIMULATOR_TOKEN", "123"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector_url),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=of%20mine"),
    ]);
    let gateway = Gateway::start(&database, &processors(&[&default]), &settings).await;
    gateway.until_settled(&gateway.post_many(3).await).await;
    // An operator's token, that of simulated processors, and what a collector is sent.
    let mut status = program(&database.url, &["status"]);
    let status = status
        .envs(settings.iter().copied())
        .output()
        .await
        .expect("it starts");
    let told = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        told.contains("closed") && !told.contains("without breakers"),
        "{told}"
    );
    let http = payment_proxy::config::tls::plain()
        .build()
        .expect("a client");
    let change = http
        .put(format!("http://{operators}/simulator/processors/default"))
        .bearer_auth(TOKEN)
        .json(&json!({"delay": 1}));
    let changed = change.send().await.expect("a reply");
    assert!(changed.status().is_success(), "{changed:?}");
    eventually(
        "the collector has it under the name that was given",
        async || {
            let services = collector.services.lock().expect("a lock");
            services.iter().any(|service| service == "of mine")
        },
    )
    .await;
    assert_eq!(calls.load(Ordering::Relaxed), 0, "calls to the proxy");
}
