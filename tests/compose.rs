//! `docker-compose.yml` is the front door: every setting goes through it, and no secret is in it.
//! `docker-compose.contest.yml` is laid over it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory;
use payment_proxy::command::Cli;
use serde_json::Value;

const COMPOSE: &str = include_str!("../docker-compose.yml");
const CONTEST: &str = include_str!("../docker-compose.contest.yml");
const OBSERVABILITY: &str = include_str!("../docs/observability.md");
const INSTANCES: [&str; 2] = ["api1", "api2"];

/// Settings that have another name in `.env`: there is one password of each role, and init.sql sets
/// it, too.
const RENAMED: [(&str, &str); 2] = [
    ("DATABASE_PASSWORD", "PAYMENT_PROXY_PASSWORD"),
    ("MIGRATE_DATABASE_PASSWORD", "PAYMENT_PROXY_OWNER_PASSWORD"),
];
/// Settings that are the stack's own: its nginx and its Prometheus ask at these addresses.
const OF_THE_STACK: [&str; 2] = ["LISTEN", "OPERATOR_LISTEN"];

fn services() -> Value {
    services_of(COMPOSE)
}

fn services_of(file: &str) -> Value {
    let mut file: Value = serde_saphyr::from_str(file).expect("YAML");
    file["services"].take()
}

/// The services with those of the contest's deployment laid over them, as compose merges mappings.
fn services_of_the_contest() -> Value {
    fn lay(over: Value, under: &mut Value) {
        match (over, under) {
            (Value::Object(over), Value::Object(under)) => {
                for (key, value) in over {
                    lay(value, under.entry(key).or_insert(Value::Null));
                }
            }
            (over, under) => *under = over,
        }
    }
    let mut services = services();
    lay(services_of(CONTEST), &mut services);
    services
}

/// What a service's process finds in its environment: null for what compose passes on from `.env`.
fn environment(service: &str) -> BTreeMap<String, Value> {
    let environment = services()[service]["environment"].take();
    serde_json::from_value(environment).expect("a mapping")
}

/// The variables that a command reads.
fn settings(command: &str) -> BTreeSet<String> {
    let cli = Cli::command();
    let arguments = cli.find_subcommand(command).expect("a subcommand");
    let arguments = arguments.get_arguments().chain(cli.get_arguments());
    let names = arguments.filter_map(|argument| argument.get_env()?.to_str().map(str::to_owned));
    names.collect()
}

/// Whether a setting comes from `.env`, and is the program's default where that does not say it.
/// Two of them name the database of the stack instead.
fn is_passed_on(setting: &str, value: &Value) -> bool {
    let name = RENAMED.iter().find(|(renamed, _)| *renamed == setting);
    match (name, value) {
        (None, Value::Null) => true,
        (None, Value::String(text)) => {
            let url = text.strip_prefix(&format!("${{{setting}:-postgres://"));
            // No password is glued into it: it may have any character.
            setting.ends_with("DATABASE_URL") && url.is_some_and(|url| !url.contains('$'))
        }
        (Some((_, name)), Value::String(text)) => text.starts_with(&format!("${{{name}:?")),
        _ => false,
    }
}

/// Every `${NAME...}` of the file, with what follows the name.
fn interpolated() -> Vec<(&'static str, &'static str)> {
    let lines = COMPOSE
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let parts = lines.flat_map(|line| line.split("${").skip(1).zip(line.split("${")));
    // Two dollars are one, for the shell in the container.
    let parts = parts.filter(|(_, before)| !before.ends_with('$'));
    let parts = parts.filter_map(|(part, _)| part.split('}').next());
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let parts =
        parts.map(|part| part.split_at(part.find(|letter| !is_name(letter)).unwrap_or(part.len())));
    parts.collect()
}

#[test]
fn every_setting_reaches_the_containers_from_the_environment_file() {
    let services = INSTANCES.map(|instance| (instance, "serve"));
    for (service, command) in services.into_iter().chain([("migrate", "migrate")]) {
        let environment = environment(service);
        let settings = settings(command);
        assert!(settings.len() > 5, "{settings:?}");
        for setting in &settings {
            let value = environment.get(setting);
            let value = value.unwrap_or_else(|| panic!("{service} is not told of {setting}"));
            let of_the_stack = OF_THE_STACK.contains(&setting.as_str());
            assert!(
                of_the_stack || is_passed_on(setting, value),
                "{service}: {setting} is {value}, whatever is in .env"
            );
        }
        // What the program does not read by itself is for its libraries.
        for other in environment.keys().filter(|name| !settings.contains(*name)) {
            assert!(
                other.starts_with("OTEL_"),
                "{service} does not read {other}"
            );
        }
    }
}

#[test]
fn what_the_documents_say_of_traces_reaches_the_instances() {
    let names =
        OBSERVABILITY.split(|letter: char| !(letter.is_ascii_uppercase() || "_*".contains(letter)));
    let names: BTreeSet<&str> = names.filter(|name| name.starts_with("OTEL_")).collect();
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        for instance in INSTANCES {
            let environment = environment(instance);
            let reaches = |key: &String| match name.strip_suffix('*') {
                Some(start) => key.starts_with(start),
                None => key == name,
            };
            let passed_on = environment.iter().filter(|(key, _)| reaches(key));
            let values: Vec<&Value> = passed_on.map(|(_, value)| value).collect();
            assert!(!values.is_empty(), "{instance} is not told of {name}");
            assert!(
                values.iter().all(|value| value.is_null()),
                "{name}: {values:?}"
            );
        }
    }
}

#[test]
fn files_that_settings_name_are_mounted_and_not_in_the_repository() {
    let services = services();
    for service in ["api1", "api2", "migrate"] {
        let volumes = services[service]["volumes"].as_array().expect("volumes");
        let mounted = volumes
            .iter()
            .any(|volume| volume == "./secrets:/run/secrets:ro");
        assert!(mounted, "{service}: {volumes:?}");
    }
    let root = env!("CARGO_MANIFEST_DIR");
    for file in ["secrets/password", ".env"] {
        let ignored = Command::new("git")
            .args(["-C", root, "check-ignore", "--quiet", file])
            .status();
        assert!(ignored.expect("git runs").success(), "git would add {file}");
    }
}

#[test]
fn operators_are_not_reachable_from_the_processors_network() {
    let services = services();
    for instance in INSTANCES {
        let listen = environment(instance)
            .remove("OPERATOR_LISTEN")
            .expect("it is set");
        let (name, _) = listen
            .as_str()
            .and_then(|listen| listen.split_once(':'))
            .expect("name:port");
        let networks = services[instance]["networks"]
            .as_object()
            .expect("a mapping");
        let knows = |network: &Value| {
            let aliases = network["aliases"].as_array();
            aliases.is_some_and(|aliases| aliases.iter().any(|alias| alias == name))
        };
        let known_in = networks.iter().filter(|(_, network)| knows(network));
        let known_in: Vec<&String> = known_in.map(|(network, _)| network).collect();
        assert_eq!(known_in, ["stack"], "{name}");
        // Neither may be the name of the container, which is known in all its networks.
        assert_ne!(services[instance]["hostname"], name);
        assert!(services[name].is_null(), "{name} is a service");
        assert!(
            services[instance]["ports"].is_null(),
            "{instance} publishes a port"
        );
    }
    let joined = services
        .as_object()
        .expect("services")
        .iter()
        .filter(|(_, service)| {
            let networks = &service["networks"];
            networks.get("payment-processor").is_some()
                || networks
                    .as_array()
                    .is_some_and(|all| all.iter().any(|name| name == "payment-processor"))
        });
    let joined: Vec<&String> = joined.map(|(name, _)| name).collect();
    assert_eq!(joined, INSTANCES, "nobody else has to do with processors");
}

#[test]
fn passwords_are_demanded_and_made_once() {
    let secret = |name: &str| ["PASSWORD", "TOKEN"].iter().any(|word| name.contains(word));
    let demanded: BTreeSet<&str> = interpolated()
        .into_iter()
        .filter(|(name, _)| secret(name))
        .inspect(|(name, rest)| {
            assert!(
                rest.starts_with(":?") && rest.contains("make env"),
                "{name} is not demanded: {rest}"
            );
        })
        .map(|(name, _)| name)
        .collect();
    assert!(demanded.len() >= 5, "{demanded:?}");

    let folder = tempfile::Builder::new()
        .prefix("with a space ü ")
        .tempdir()
        .expect("a folder");
    let file = folder.path().join(".env");
    let make = || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/env.sh");
        let made = Command::new(script)
            .arg(&file)
            .env_clear()
            .env("PATH", env!("PATH"))
            .output();
        let made = made.expect("the script runs");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let said = String::from_utf8_lossy(&made.stdout).into_owned();
        (std::fs::read_to_string(&file).expect("a file"), said)
    };
    // One is there already, behind another line and without an end of line; another one is there
    // without a value.
    std::fs::write(&file, "GRAFANA_PASSWORD=\nAUDITOR_PASSWORD='a b#c'").expect("a file");
    let (first, said) = make();
    let lines: BTreeMap<&str, &str> = first
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    for name in demanded.iter().chain(&["OPERATOR_TOKEN", "METRICS_TOKEN"]) {
        let value = lines
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not made"));
        assert!(
            !said.contains(value) || *name == "AUDITOR_PASSWORD",
            "a secret is shown: {said}"
        );
        match *name {
            "AUDITOR_PASSWORD" => assert_eq!(*value, "'a b#c'"),
            _ => assert_eq!(value.len(), 32, "{name}"),
        }
    }
    let distinct: BTreeSet<&&str> = lines.values().collect();
    assert_eq!(distinct.len(), lines.len(), "two are the same");
    assert_eq!(
        make(),
        (first, String::new()),
        "a second time changes nothing"
    );

    std::fs::remove_file(&file).expect("it is there");
    make();
    let mode = std::fs::metadata(&file)
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_limits_are_those_of_the_contest() {
    for services in [services(), services_of_the_contest()] {
        let public = services.as_object().expect("services").values();
        let public = public.filter(|service| service["profiles"].is_null());
        let limits = public.map(|service| &service["deploy"]["resources"]["limits"]);
        let (mut cpus, mut megabytes) = (0.0, 0);
        for limit in limits {
            cpus += limit["cpus"]
                .as_str()
                .and_then(|cpus| cpus.parse::<f64>().ok())
                .expect("CPUs");
            let memory = limit["memory"]
                .as_str()
                .and_then(|memory| memory.strip_suffix("MB"));
            megabytes += memory
                .and_then(|memory| memory.parse::<u32>().ok())
                .expect("megabytes");
        }
        assert!(
            cpus <= 1.5 + f64::EPSILON * 8.0 && megabytes <= 350,
            "{cpus} CPUs, {megabytes} MB"
        );
    }
}

#[test]
fn the_load_balancer_finds_the_instances_where_they_listen() {
    let balanced = |configuration: &str| -> BTreeSet<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(configuration);
        let text = std::fs::read_to_string(path).expect(configuration);
        let servers = text.lines().map(str::trim);
        let servers = servers.filter_map(|line| line.strip_prefix("server unix:"));
        let servers = servers.filter_map(|rest| rest.split_whitespace().next());
        servers.map(|socket| format!("unix:{socket}")).collect()
    };
    let listening: BTreeSet<String> = INSTANCES
        .iter()
        .map(|instance| environment(instance)["LISTEN"].as_str().map(str::to_owned))
        .collect::<Option<_>>()
        .expect("all listen");
    for configuration in ["nginx.conf", "deploy/contest/nginx.conf"] {
        assert_eq!(balanced(configuration), listening, "{configuration}");
    }
}

#[test]
fn every_file_of_the_repository_that_a_service_mounts_is_there() {
    let (ours, contest) = (services(), services_of(CONTEST));
    let services = [&ours, &contest];
    let services = services.iter().filter_map(|services| services.as_object());
    let volumes =
        services.flat_map(|services| services.values().map(|service| &service["volumes"]));
    let volumes = volumes.filter_map(|volumes| volumes.as_array()).flatten();
    let mounted = volumes.filter_map(|volume| volume.as_str()?.strip_prefix("./"));
    let mounted: BTreeSet<&str> = mounted
        .filter_map(|mount| mount.split(':').next())
        .collect();
    assert!(mounted.contains("nginx-rules.conf"), "{mounted:?}");
    for file in mounted {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        assert!(path.exists(), "{file} is not there");
    }
}

#[test]
fn the_contest_s_deployment_replaces_the_load_balancer_s_configuration() {
    let mounts = |file: &str| -> BTreeMap<String, String> {
        let services = services_of(file);
        let volumes = services["nginx"]["volumes"].as_array().expect("volumes");
        let pairs = volumes.iter().filter_map(|volume| {
            let (source, rest) = volume.as_str()?.split_once(':')?;
            Some((rest.to_owned(), source.to_owned()))
        });
        pairs.collect()
    };
    let (ours, contest) = (mounts(COMPOSE), mounts(CONTEST));
    // At the same path and with the same mode: compose would mount both otherwise.
    assert!(contest.keys().all(|target| ours.contains_key(target)));
    assert!(
        contest
            .iter()
            .all(|(target, source)| ours[target] != *source)
    );
}

/// The files of a deployment whose database may lose a machine.
mod high_availability {
    use super::*;

    const COMPOSE: &str = include_str!("../deploy/ha/docker-compose.yml");
    const PATRONI: &str = include_str!("../deploy/ha/patroni.yml");
    const HAPROXY: &str = include_str!("../deploy/ha/haproxy.cfg");
    const PAGE: &str = include_str!("../docs/high-availability.md");

    fn yaml(text: &str) -> Value {
        serde_saphyr::from_str(text).expect("YAML")
    }

    #[test]
    fn the_queue_is_logged_and_clients_are_led_to_the_leader_by_haproxy() {
        let services = yaml(COMPOSE)["services"].take();
        for service in ["api1", "api2", "migrate"] {
            let environment = &services[service]["environment"];
            assert_eq!(environment["QUEUE_DURABILITY"], "logged", "{service}");
            let url = environment["DATABASE_URL"].as_str().expect("a URL");
            assert!(url.ends_with("@haproxy:5432/payments"), "{service}: {url}");
        }
        let environment = &services["haproxy"]["environment"];
        for number in 1..=3 {
            let (variable, member) = (format!("POSTGRES{number}"), format!("postgres{number}"));
            assert_eq!(environment[&variable], member);
            assert_eq!(services[&member]["environment"]["PATRONI_NAME"], member);
            let server = format!("server {member} \"${{{variable}}}:5432\"");
            assert_eq!(HAPROXY.matches(&server).count(), 2, "{server}");
        }
        for line in COMPOSE.lines().filter(|line| line.contains("PASSWORD: ")) {
            let demanded = line.contains(":?run make env") || line.contains(": *");
            assert!(demanded, "a password that is not demanded: {line}");
        }
    }

    #[test]
    fn what_the_page_says_of_each_part_is_what_the_files_set() {
        let table = PAGE.split("\n## What each part adds to the gap\n").nth(1);
        let table = table.and_then(|rest| rest.split("\n## ").next());
        let rows = table.expect("a section").lines();
        let rows = rows.filter(|line| line.starts_with("| "));
        let settings = rows.filter_map(|row| row.rsplit('|').nth(1));
        let named = settings.flat_map(|cell| cell.split('`').skip(1).step_by(2));
        // With a value: what is named alone is left as PostgreSQL has it.
        let named: Vec<&str> = named.filter(|name| name.contains(' ')).collect();
        assert!(named.len() >= 8, "{named:?}");
        for name in named {
            let set = PATRONI.contains(name) || HAPROXY.contains(name);
            assert!(set, "deploy/ha does not set {name}");
        }
        for (port, listens) in [("5432", "/primary"), ("5433", "/replica")] {
            let parts = HAPROXY.split("\nlisten ");
            let part = parts
                .into_iter()
                .find(|part| part.contains(&format!(":{port}\"")));
            let checks = part.expect("a part").contains(&format!("uri {listens}"));
            assert!(checks, "{port} does not lead to {listens}");
        }
        for instance in ["api1", "api2"] {
            let environment = yaml(COMPOSE)["services"][instance]["environment"].take();
            let passed_on = environment.get("READ_DATABASE_URL");
            assert_eq!(passed_on, Some(&Value::Null), "{instance}: from .env alone");
        }
    }

    #[test]
    fn no_commit_is_on_one_machine_only_and_a_lost_leader_is_replaced_soon() {
        let patroni = yaml(PATRONI)["bootstrap"]["dcs"].take();
        for setting in [
            "synchronous_mode",
            "synchronous_mode_strict",
            "failsafe_mode",
        ] {
            assert_eq!(patroni[setting], true, "{setting}");
        }
        let seconds = |name: &str| patroni[name].as_u64().expect("seconds");
        let (ttl, turn, retry) = (
            seconds("ttl"),
            seconds("loop_wait"),
            seconds("retry_timeout"),
        );
        // Patroni's own rule, and the least that it takes.
        assert!(ttl >= turn + 2 * retry && ttl == 20, "{patroni}");
        assert!(HAPROXY.contains("on-marked-down shutdown-sessions"));
    }
}

/// The files of a deployment whose cells are in a Citus cluster.
mod citus {
    use super::*;

    const COMPOSE: &str = include_str!("../deploy/citus/docker-compose.yml");

    #[test]
    fn every_cell_has_a_database_and_a_logged_queue_before_it_is_migrated() {
        let yaml: Value = serde_saphyr::from_str(COMPOSE).expect("YAML");
        let services = &yaml["services"];
        let databases = |url: &Value| -> Vec<String> {
            let urls = url.as_str().expect("URLs").split(',');
            urls.map(|url| {
                let (server, database) = url.rsplit_once('/').expect("a database");
                assert!(server.ends_with("@coordinator"), "{url}");
                database.to_owned()
            })
            .collect()
        };
        let mut before = Vec::new();
        for service in ["migrate", "api1", "api2"] {
            let environment = &services[service]["environment"];
            assert_eq!(environment["QUEUE_DURABILITY"], "logged", "{service}");
            let cells = databases(&environment["DATABASE_URL"]);
            assert!(cells.len() > 1 && (before.is_empty() || before == cells));
            before = cells;
        }
        let owner = &services["migrate"]["environment"]["MIGRATE_DATABASE_URL"];
        assert_eq!(databases(owner), before);
        let mut workers = Vec::new();
        for cell in &before {
            let entrypoint = services[cell]["entrypoint"].as_array().expect("a command");
            let words: Vec<&str> = entrypoint.iter().filter_map(Value::as_str).collect();
            assert_eq!(words[..3], ["sh", "/init.sh", cell]);
            assert_eq!(words[4], "coordinator");
            assert!(words[5..].contains(&words[3]), "{cell} is on a worker");
            assert!(
                words[4..]
                    .iter()
                    .all(|server| services.get(server).is_some())
            );
            workers.push(words[3]);
        }
        workers.dedup();
        assert_eq!(workers.len(), before.len(), "each on a worker of its own");
        for server in ["coordinator", "worker1", "worker2"] {
            let command = services[server]["command"].to_string();
            assert!(
                command.contains("-cwal_level=logical"),
                "{server} moves nothing"
            );
        }
        for line in COMPOSE.lines().filter(|line| line.contains("PASSWORD: ")) {
            let demanded = line.contains(":?run make env") || line.contains(": *");
            assert!(demanded, "a password that is not demanded: {line}");
        }
    }
}
