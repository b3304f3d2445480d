//! Every block of commands of the READMEs and of docs/, as it stands there: typed into a shell by a
//! person, line by line, each in a terminal of its own, on a private deployment. What takes
//! containers or many minutes is checked without being run.
//!
//! A person pauses for longer than a session may idle in a transaction (10 s), so no block may hold
//! one from one line to the next, and the service goes on meanwhile. A person stops at a line that
//! has failed, so each line says so by its exit code, and leaves the ledger as it was.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use uuid::Uuid;

use crate::server::{connect_as, run_init_sql};
use crate::support::{CENTS, Database, Gateway, processor, processors};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const TOKEN: &str = "an-operator-says-this";
/// What a person does not wait for any longer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a person reads what a line has said, at least.
const READS: Duration = Duration::from_millis(150);
/// How long a person watches what goes on until Ctrl-C; longer where nothing is there to be seen
/// yet.
const WATCHES_SECONDS: [u32; 2] = [2, 20];

/// Blocks of a page that another test runs, with its source and name.
const RUN_ELSEWHERE: &[(&str, &str, &str, &str)] = &[
    (
        "docs/auditing.md",
        "sql",
        include_str!("auditing.rs"),
        "every_query_of_the_auditing_page_answers_its_question",
    ),
    (
        "docs/client-examples.md",
        "sh",
        include_str!("clients.rs"),
        "the_examples_for_a_shell_and_in_python_pay_once",
    ),
    (
        "docs/client-examples.md",
        "python",
        include_str!("clients.rs"),
        "the_examples_for_a_shell_and_in_python_pay_once",
    ),
    (
        "docs/client-examples.md",
        "typescript",
        include_str!("clients.rs"),
        "the_example_in_typescript_compiles_and_pays_once",
    ),
    (
        "docs/databases.md",
        "sh",
        include_str!("managed.rs"),
        "the_page_leads_from_an_empty_managed_server_to_the_first_settled_payment",
    ),
    (
        "docs/databases.md",
        "ini",
        include_str!("poolers.rs"),
        "behind_a_transaction_pooler_commits_and_plans_do_not_rest_on_what_sessions_were_told",
    ),
];

/// A block of a page.
#[derive(Debug)]
struct Block {
    page: String,
    /// Of a fenced one, what is written behind the fence.
    language: String,
    lines: Vec<String>,
}

/// The pages, the READMEs first.
fn pages() -> Vec<String> {
    let folder = std::fs::read_dir(Path::new(ROOT).join("docs")).expect("docs");
    let files =
        folder.map(|entry| format!("docs/{}", entry.expect("an entry").file_name().display()));
    let mut pages: Vec<String> = files.filter(|file| file.ends_with(".md")).collect();
    pages.sort();
    let readme = ["README.md", "README.pt-BR.md"].map(str::to_owned);
    pages.splice(..0, readme);
    pages
}

/// The blocks of a page: fenced, or indented by four spaces behind an empty line.
fn blocks(page: &str, text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut fenced, mut indented, mut in_list, mut before_is_empty) = (false, false, false, true);
    let block = |language: &str| Block {
        page: page.to_owned(),
        language: language.to_owned(),
        lines: Vec::new(),
    };
    for line in text.lines() {
        let content = line.trim();
        if let (Some(language), false) = (content.strip_prefix("```"), indented) {
            fenced = !fenced;
            if fenced {
                blocks.push(block(language));
            }
        } else if fenced {
            blocks
                .last_mut()
                .expect("it is open")
                .lines
                .push(line.to_owned());
        } else if line.starts_with("    ") && !in_list && (indented || before_is_empty) {
            if !indented {
                blocks.push(block(""));
            }
            indented = true;
            blocks
                .last_mut()
                .expect("it is open")
                .lines
                .push(content.to_owned());
        } else if !content.is_empty() {
            indented = false;
            in_list = line.starts_with("- ") || (in_list && line.starts_with("  "));
        }
        before_is_empty = content.is_empty();
    }
    blocks
}

#[test]
fn blocks_are_found_however_they_are_written() {
    let text = "a\n\n    make run # x\n    make test\n\nb\n    no code\n\n- c\n\n    no \
        code\n\nd\n\n```sql\n\nSELECT\n```\n";
    let found = blocks("page", text);
    let found: Vec<(&str, String)> = found
        .iter()
        .map(|block| (block.language.as_str(), block.lines.join("|")))
        .collect();
    let expected = [("", "make run # x|make test"), ("sql", "|SELECT")];
    assert_eq!(
        found,
        expected.map(|(language, lines)| (language, lines.to_owned()))
    );
}

/// What a text tells a reader to write to one of our tables in SQL, in a block or within a
/// sentence.
fn changes_the_ledger(text: &str) -> Vec<String> {
    const WRITES: [&str; 9] = [
        "INSERT INTO ",
        "UPDATE ",
        "DELETE FROM ",
        "TRUNCATE ",
        "TRUNCATE TABLE ",
        "MERGE INTO ",
        "COPY ",
        "ALTER TABLE ",
        "DROP TABLE ",
    ];
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let upper = words.to_uppercase();
    let writes = WRITES.iter().flat_map(|verb| upper.match_indices(verb));
    let tables = [
        "PAYMENT_",
        "PROCESSOR_",
        "LEDGER_",
        "RECONCILE_",
        "DEPLOYMENT",
        "SERVICE_",
    ];
    let written = writes.filter_map(|(at, verb)| {
        let table = upper[at + verb.len()..].trim_start_matches("ONLY ");
        let table = table.trim_start_matches("PUBLIC.").trim_start_matches('"');
        let ours = tables.iter().any(|prefix| table.starts_with(prefix));
        ours.then(|| upper[at..].chars().take(60).collect())
    });
    written.collect()
}

#[test]
fn no_page_changes_the_ledger_by_sql() {
    for text in [
        "```sql\nDELETE FROM payment_archived\n  WHERE month = '2026-07-01';\n```",
        "psql -c \"\\copy payment_processed from 'july.csv' csv\"",
        "say `update only public.payment_queue set attempt = 0`",
        "insert\n    into payment_processed values (1)",
        "TRUNCATE payment_queue",
    ] {
        assert_eq!(changes_the_ledger(text).len(), 1, "{text}");
    }
    assert!(changes_the_ledger("SELECT * FROM payment_processed FOR UPDATE; copy it").is_empty());
    for page in pages() {
        let text = std::fs::read_to_string(Path::new(ROOT).join(&page)).expect("a page");
        assert_eq!(changes_the_ledger(&text), Vec::<String>::new(), "{page}");
    }
}

/// What is to be done with a line.
enum Line<'a> {
    /// A command of the program, which is run.
    Program(&'a str),
    /// A target of the Makefile, which takes minutes, or stays.
    Make(&'a str),
    /// Containers, which not every machine has.
    Compose(&'a str),
}

/// The lines of a block that have to be looked at. Fails for a block that nobody has thought of.
fn lines(block: &Block) -> Vec<Line<'_>> {
    let Block {
        page,
        language,
        lines,
    } = block;
    let text = lines.join("\n");
    let elsewhere = RUN_ELSEWHERE
        .iter()
        .find(|(of, kind, ..)| page == of && language == kind);
    if let Some((.., source, test)) = elsewhere {
        assert!(
            source.contains(&format!("fn {test}(")),
            "no test is called {test}"
        );
        let words: BTreeSet<String> = text.split_whitespace().map(str::to_uppercase).collect();
        for held in ["BEGIN;", "BEGIN", "COMMIT;"] {
            assert!(
                language != "sql" || !words.contains(held),
                "{page} holds a transaction: {text}"
            );
        }
        return Vec::new();
    }
    // A picture, and what a reply looks like.
    if language == "mermaid" || serde_json::from_str::<Value>(&text).is_ok() {
        return Vec::new();
    }
    let commands = lines
        .iter()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let commands = commands.map(|line| match line.split(' ').next() {
        Some("payment-proxy") => Line::Program(line),
        Some("make") => Line::Make(line),
        Some("docker") => Line::Compose(line),
        _ => panic!(
            "{page} has a block that nobody runs, at {line:?}: say in {} what is to be \
            done with it",
            file!()
        ),
    });
    commands.collect()
}

/// A line without what it says to people.
fn without_comment(line: &str) -> &str {
    line.split(" # ").next().expect("a part").trim_end()
}

/// The target and its variables exist, and what it runs is a script that a shell understands.
async fn check_make(line: &str) {
    let words = without_comment(line)
        .strip_prefix("make ")
        .expect("a target");
    let dry_run = format!("make --dry-run {words}");
    let told = Command::new("bash")
        .args(["-c", &dry_run])
        .current_dir(ROOT)
        .env_remove("MAKEFLAGS")
        .output();
    let told = told.await.expect("make runs");
    assert!(
        told.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&told.stderr)
    );
    let runs = String::from_utf8_lossy(&told.stdout).into_owned();
    let makefile = std::fs::read_to_string(Path::new(ROOT).join("Makefile")).expect("a Makefile");
    for variable in words
        .split(' ')
        .filter_map(|word| word.split_once('='))
        .map(|(name, _)| name)
    {
        let script = runs
            .split_whitespace()
            .find(|word| word.starts_with("scripts/"));
        let script = script
            .map(|script| std::fs::read_to_string(Path::new(ROOT).join(script)).expect("a script"));
        let known = makefile.contains(&format!("$({variable})"))
            || script.is_some_and(|text| text.contains(variable));
        assert!(known, "{line}: nothing reads {variable}");
    }
    for script in runs
        .split_whitespace()
        .filter(|word| word.starts_with("scripts/"))
    {
        let read = Command::new("bash")
            .arg("-n")
            .arg(script)
            .current_dir(ROOT)
            .status()
            .await;
        assert!(read.expect("bash runs").success(), "{script}");
    }
}

/// The files of a `docker compose` are there, and have the profile.
fn check_compose(line: &str) {
    let words: Vec<&str> = without_comment(line).split(' ').collect();
    assert_eq!(words[..2], ["docker", "compose"], "{line}");
    let value = |flag: &str| {
        let at = words.iter().position(|word| *word == flag)?;
        Some(words[at + 1])
    };
    let file = value("-f").unwrap_or("docker-compose.yml");
    let text = std::fs::read_to_string(Path::new(ROOT).join(file)).expect(file);
    let compose: Value = serde_saphyr::from_str(&text).expect(file);
    let services = compose["services"].as_object().expect("services");
    if let Some(profile) = value("--profile") {
        let has = |service: &Value| {
            service["profiles"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one == profile))
        };
        assert!(
            services.values().any(has),
            "{line}: there is no such profile"
        );
    }
    assert!(
        words.contains(&"up"),
        "{line}: only what starts is known here"
    );
}

/// A deployment with the rights and the settings that `make run` has, and a month that is long
/// over.
struct Deployment {
    admin: Database,
    gateway: Gateway,
    settings: Settings,
    folder: tempfile::TempDir,
    id: Uuid,
    _processors: [simulator::Running; 2],
}

impl Deployment {
    async fn start() -> Self {
        let admin = Database::create().await;
        run_init_sql(&admin);
        let url = |role: &str| connect_as(&admin, role).url;
        let both = [processor().await, processor().await];
        let configured = processors(&both.each_ref());
        let folder = tempfile::Builder::new()
            .prefix("a person's ")
            .tempdir()
            .expect("a folder");
        for name in ["first", "second"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let operators = format!("unix:{}", folder.path().join("operators").display());
        let settings = vec![
            ("DATABASE_URL", url("payment_proxy")),
            ("MIGRATE_DATABASE_URL", url("payment_proxy_owner")),
            ("PROCESSORS", configured.clone()),
            ("OPERATOR_LISTEN", operators),
            ("OPERATOR_TOKEN", TOKEN.to_owned()),
        ];
        let migrated = type_line("payment-proxy migrate", &settings).await;
        assert!(migrated.status.success(), "{}", said(&migrated));
        let given: Vec<(&str, &str)> = settings
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let service = connect_as(&admin, "payment_proxy");
        let gateway = Gateway::start(&service, &configured, &given[3..]).await;
        let ids = gateway.post_many(5).await;
        gateway.until_settled(&ids).await;
        std::fs::write(folder.path().join("ids"), ids[0].to_string()).expect("a file");
        let deployment = Self {
            id: ids[0],
            admin,
            gateway,
            settings,
            folder,
            _processors: both,
        };
        deployment.settle_in_july().await;
        deployment
    }

    /// Payments of the month of which the README tells, at a processor and with us.
    async fn settle_in_july(&self) {
        let client = payment_proxy::config::tls::plain()
            .build()
            .expect("a client");
        let processor = &self._processors[0];
        for day in 1..=20 {
            let (id, at) = (Uuid::new_v4(), format!("2026-07-{day:02}T12:00:00.123Z"));
            let body = format!(r#"{{"correlationId":"{id}","amount":19.90,"requestedAt":"{at}"}}"#);
            let post = client.post(format!("{}/payments", processor.url()));
            let reply = post
                .header("content-type", "application/json")
                .body(body)
                .send()
                .await;
            assert!(reply.expect("a reply").status().is_success());
            self.admin
                .execute(&format!(
                    "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
                        accepted_at, attempt)
                     VALUES ('{id}', {CENTS} / 100.0, 'default', '{at}', '{at}', 1)"
                ))
                .await;
        }
    }

    /// The line as a person types it, who puts in what stands for something else.
    fn typed(&self, line: &str) -> String {
        let folder = |name: &str| {
            format!(
                "'{}'",
                self.folder
                    .path()
                    .join(name)
                    .display()
                    .to_string()
                    .replace('\'', r"'\''")
            )
        };
        let words = without_comment(line).split(' ').map(|word| match word {
            "ID" => self.id.to_string(),
            // That of simulated processors.
            "TOKEN" => "123".to_owned(),
            "FOLDER" => folder("first"),
            "charged.txt" | "absent.txt" => folder(word),
            "FILE" => folder("ids"),
            "/srv/archive" => folder("second"),
            word => word.to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Payments in doubt at a processor that was removed, and the files that an operator wrote of
    /// it.
    async fn strand_payments(&self) {
        for file in ["charged.txt", "absent.txt"] {
            let id = Uuid::new_v4();
            self.admin
                .execute(&format!(
                    "INSERT INTO payment_queue
                         (correlation_id, amount, accepted_at, attempt, processor, requested_at,
                             doubt_until)
                     VALUES ('{id}', 19.90, now() - interval '5 min', 3, 'old',
                         date_trunc('milliseconds', now() - interval '5 min'),
                             now() - interval '3 min')"
                ))
                .await;
            std::fs::write(self.folder.path().join(file), format!("{id}\n")).expect("a file");
        }
    }

    /// All that is settled, by the API.
    async fn summary(&self) -> Value {
        self.gateway.json("/payments-summary").await
    }

    /// How many payments are settled.
    async fn payments(&self) -> u64 {
        let summary = self.summary().await;
        let of = |name: &str| summary[name]["totalRequests"].as_u64().expect("a number");
        of("default") + of("fallback")
    }

    /// What goes on between one line and the next: somebody pays, and heartbeats and polls have
    /// their turn.
    async fn goes_on(&self) {
        self.gateway
            .until_settled(&self.gateway.post_many(1).await)
            .await;
        tokio::time::sleep(READS).await;
    }
}

/// Types a line into a shell, with those settings and no others. What goes on by itself is ended
/// with Ctrl-C.
async fn type_line(line: &str, settings: &[(&str, String)]) -> Output {
    let bin = Path::new(env!("CARGO_BIN_EXE_payment-proxy"))
        .parent()
        .expect("a folder");
    let path = format!(
        "{}:{}",
        bin.display(),
        std::env::var("PATH").expect("a PATH")
    );
    let typed = async |line: &str| {
        let shell = Command::new("bash")
            .args(["-c", line])
            .env_clear()
            .env("PATH", &path)
            .envs(settings.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let ended = tokio::time::timeout(TIMEOUT, shell).await;
        ended
            .unwrap_or_else(|_| panic!("it does not end: {line}"))
            .expect("bash runs")
    };
    if !line.contains("--watch") {
        return typed(line).await;
    }
    let [short, long] =
        WATCHES_SECONDS.map(|seconds| format!("timeout --signal INT {seconds} {line}"));
    let seen = typed(&short).await;
    match seen.stdout.is_empty() {
        false => seen,
        true => typed(&long).await,
    }
}

fn said(output: &Output) -> String {
    format!(
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// What a Ctrl-C at what goes on by itself makes `timeout` say.
const INTERRUPTED: i32 = 124;

/// Settings of a shell.
type Settings = Vec<(&'static str, String)>;

/// Where a block stopped, because a step of it failed.
#[derive(Debug)]
struct Stopped {
    step: usize,
    line: String,
    said: String,
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { step, line, said } = self;
        write!(
            out,
            "step {step} failed, nothing behind it was typed: {line}\n{said}"
        )
    }
}

/// Types one step after the other, with a pause between them, until one fails: it ends otherwise
/// than by 0 or by Ctrl-C, or it says nothing.
async fn type_block(
    steps: impl IntoIterator<Item = (String, Settings)>,
    mut pause: impl AsyncFnMut(),
) -> Result<(), Stopped> {
    for (number, (line, settings)) in steps.into_iter().enumerate() {
        if number > 0 {
            pause().await;
        }
        let output = type_line(&line, &settings).await;
        let code = output.status.code();
        let ended = code == Some(0) || (line.contains("--watch") && code == Some(INTERRUPTED));
        if !ended || output.stdout.is_empty() {
            return Err(Stopped {
                step: number + 1,
                line,
                said: said(&output),
            });
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_block_stops_at_the_step_that_fails_and_says_which() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let step = |word: &str| format!("echo {word} | tee -a '{}'", trace.display());
    let pauses = std::cell::Cell::new(0);
    let typed = async |lines: &[String]| {
        let steps = lines.iter().map(|line| (line.clone(), Settings::new()));
        type_block(steps, async || pauses.set(pauses.get() + 1)).await
    };
    typed(&[step("one"), step("two")])
        .await
        .expect("both end well");
    let broken = [
        step("three"),
        "echo why >&2; exit 7".to_owned(),
        step("four"),
    ];
    let stopped = typed(&broken).await.expect_err("the second fails");
    let told = stopped.to_string();
    for words in ["step 2 failed", "exit 7", "exit status: 7", "why"] {
        assert!(told.contains(words), "{told}");
    }
    let silent = typed(&["true".to_owned(), step("five")]).await;
    assert_eq!(silent.expect_err("it says nothing").step, 1);
    let trace = std::fs::read_to_string(trace).expect("a file");
    assert_eq!((&*trace, pauses.get()), ("one\ntwo\nthree\n", 2));
}

/// How a step can fail that a person types: the database is not there, the folder is not, or
/// processors are not configured. `reconcile` is at work for hours and outwaits an outage, for
/// longer than anybody waits here.
fn failing(line: &str, settings: &Settings) -> Vec<(String, Settings)> {
    let mut faults = Vec::new();
    let with = |name: &str, value: &str| {
        let others = settings
            .iter()
            .map(|(known, own)| match known.ends_with(name) {
                true => (*known, value.to_owned()),
                false => (*known, own.clone()),
            });
        others.collect::<Settings>()
    };
    if line.contains(" reconcile ") {
        faults.push((line.to_owned(), with("PROCESSORS", "")));
    } else {
        let away = with("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing");
        faults.push((line.to_owned(), away));
    }
    let nowhere = line
        .replace("/first", "/nowhere")
        .replace("/second", "/nowhere");
    if nowhere != line && !line.contains("--dry-run") {
        faults.push((nowhere, settings.clone()));
    }
    faults
}

#[tokio::test]
async fn every_block_of_commands_is_run_or_checked_as_it_stands() {
    let read = |page: &String| std::fs::read_to_string(Path::new(ROOT).join(page)).expect("a page");
    let blocks: Vec<Block> = pages()
        .iter()
        .flat_map(|page| blocks(page, &read(page)))
        .collect();
    assert!(blocks.len() > 20, "{} blocks", blocks.len());
    let mut program: Vec<(&Block, Vec<&str>)> = Vec::new();
    for block in &blocks {
        let mut commands = Vec::new();
        for line in lines(block) {
            match line {
                Line::Program(line) => commands.push(line),
                Line::Make(line) => check_make(line).await,
                Line::Compose(line) => check_compose(line),
            }
        }
        if !commands.is_empty() {
            program.push((block, commands));
        }
    }
    assert!(program.len() > 4, "{program:?}");

    let deployment = Deployment::start().await;
    let mut payments = deployment.payments().await;
    assert!(payments > 20, "{payments}");
    // In the order in which they are read; what wants attention comes last.
    let wants_attention = |line: &&str| line.contains(".txt") || line.contains("acknowledge");
    program.sort_by_key(|(_, commands)| commands.iter().any(wants_attention));
    let mut is_stranded = false;
    for (block, commands) in program {
        let typed: Vec<String> = commands.iter().map(|line| deployment.typed(line)).collect();
        if !is_stranded && typed.iter().any(|line| line.contains(".txt")) {
            deployment.strand_payments().await;
            is_stranded = true;
        }
        if typed
            .iter()
            .any(|line| line.contains("acknowledge --reason"))
        {
            let emptied = "INSERT INTO payment_queue_emptied (life) VALUES (gen_random_uuid())";
            deployment.admin.execute(emptied).await;
        }
        // A step that fails says so and changes nothing.
        let before = deployment.summary().await;
        for line in &typed {
            for (line, settings) in failing(line, &deployment.settings) {
                let output = type_line(&line, &settings).await;
                let (text, code) = (said(&output), output.status.code());
                let shown = match line.contains("--watch") {
                    true => text.contains("connection to server at 127.0.0.1, port 1 failed"),
                    false => {
                        matches!(code, Some(1 | 2))
                            && !(output.stdout.is_empty() && output.stderr.is_empty())
                    }
                };
                assert!(
                    shown && !text.contains("panicked"),
                    "{}: {line}: {text}",
                    block.page
                );
            }
        }
        assert_eq!(deployment.summary().await, before, "{}", block.page);

        // And as a person types them.
        let steps = typed
            .iter()
            .map(|line| (line.clone(), deployment.settings.clone()));
        let done = type_block(steps, async || {
            deployment.goes_on().await;
            payments += 1;
        });
        if let Err(stopped) = done.await {
            panic!("{}: {stopped}", block.page);
        }
        let now = deployment.payments().await;
        assert_eq!(
            now, payments,
            "the commands of {} change no total",
            block.page
        );
    }
    assert!(is_stranded);
    deployment.goes_on().await;
}
