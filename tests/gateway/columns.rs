//! How wide the output is, and how a person sees how far a command is.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use simulator::Running;
use tokio::process::Command;
use uuid::Uuid;

use crate::archive::filled;
use crate::command_line::{program, run};
use crate::support::{Database, Gateway, eventually, processor};

const ID: &str = "4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3";
const REASON: &str =
    "no reply within the time that a processor has, and its look-up says nothing of it";
/// A name that leaves no room beside an id.
const LONG_NAME: &str = "payment-processor-of-the-second-bank-that-we-have";

/// Commands whose output is nothing that a person reads in lines.
const NOT_READ: &[&str] = &[
    "serve",
    "migrate",
    "divide",
    "probe",
    "completions",
    "man",
    "help",
];

/// A deployment in which much is wrong, so that every command has much to say.
struct Site {
    database: Database,
    default: Running,
    second: Running,
    _gateway: Gateway,
}

impl Site {
    async fn open() -> Self {
        let (database, default, second) = (
            Database::create().await,
            processor().await,
            processor().await,
        );
        let processors = terms(&[&default, &second]);
        let gateway = Gateway::start(&database, &processors, &[]).await;
        database
            .execute(&format!(
                "INSERT INTO payment_dead_letter (correlation_id, amount, accepted_at, attempt,
                    processor, reason)
                 VALUES ('{ID}', 999999999999.99, now(), 12345, '{LONG_NAME}', '{REASON} {REASON}');
                 INSERT INTO payment_attempt
                    (correlation_id, requested_at, outcome, processor, reason, first_claim,
                        last_claim)
                 VALUES ('{ID}', now(), 'in_doubt', '{LONG_NAME}', '{REASON}', 1, 12345);
                 INSERT INTO payment_queue
                    (correlation_id, amount, accepted_at, attempt, processor, requested_at,
                        doubt_until)
                 VALUES (gen_random_uuid(), 1, now() - interval '5 min', 1, 'removed',
                     now() - interval '5 min', now());
                 INSERT INTO payment_attempt
                    (correlation_id, requested_at, outcome, processor, reason, first_claim,
                        last_claim)
                 SELECT correlation_id, now(), 'in_doubt', 'removed', '{REASON}', 1, 1
                     FROM payment_queue;
                 INSERT INTO processor_health (processor) VALUES ('removed');
                 INSERT INTO payment_processed
                    (correlation_id, amount, processor, requested_at, accepted_at, attempt)
                 SELECT gen_random_uuid(), 999999999999.99, '{LONG_NAME}', at, now(), 1
                 FROM unnest(ARRAY[now(), '2025-05-01Z', '2025-06-01Z', '2025-07-01Z']) AS at;
                 INSERT INTO payment_dead_letter
                    (correlation_id, amount, accepted_at, attempt, processor, reason, requested_at)
                 VALUES (gen_random_uuid(), 1, now(), 1, 'default', '{REASON}', '2025-07-01Z')"
            ))
            .await;
        Self {
            database,
            default,
            second,
            _gateway: gateway,
        }
    }
}

fn terms(running: &[&Running]) -> String {
    let terms = [("default", "0.05"), (LONG_NAME, "0.15")];
    let terms = terms.iter().zip(running);
    let terms = terms.map(|((name, fee), running)| format!("{name},{fee},{}", running.url()));
    terms.collect::<Vec<_>>().join(" ")
}

/// Fails for a line that is longer than that. An error is one line, however long, for scripts.
fn fits(columns: usize, what: &[&str], text: &str) {
    for line in text.lines().filter(|line| !line.starts_with("error: ")) {
        let length = line.chars().count();
        assert!(
            length <= columns,
            "{what:?} prints {length}: {line:?}\n{text}"
        );
    }
}

#[tokio::test]
async fn what_every_command_prints_fits_eighty_columns() {
    let site = Site::open().await;
    let (both, one) = (
        terms(&[&site.default, &site.second]),
        terms(&[&site.default]),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let files = folder.path().to_str().expect("a path");
    let ids = folder.path().join("ids");
    std::fs::write(&ids, format!("{}\n{}\n", Uuid::new_v4(), Uuid::new_v4())).expect("a file");
    let ids = ids.to_str().expect("a path");
    let disable = ["routing", "disable", "default", "--reason", REASON];
    eventually("it is switched off", async || {
        run(&mut program(&site.database.url, &disable)).await.0 == 0
    })
    .await;
    let late = "INSERT INTO payment_processed (correlation_id, amount, processor, requested_at,
        accepted_at, attempt)
        VALUES (gen_random_uuid(), 1, 'default', '2025-05-01Z', now(), 1)";
    let declared = format!("{REASON}, {REASON}");
    // In this order, each with a part of what it has to say.
    let commands: &[(&[&str], &str, &str)] = &[
        (&["status"], &both, "removed"),
        (
            &["status", "--operator-listen", "127.0.0.1:1"],
            &both,
            "without",
        ),
        (&["summary"], &both, "3999999999999.96"),
        (&["payment", ID], &both, "claimed"),
        (&["payment", ids], &both, "error: "),
        (
            &["payment", "00000000-0000-4000-8000-000000000000"],
            &both,
            "not known",
        ),
        (&["dead-letter", "list"], &both, LONG_NAME),
        (&["dead-letter", "show", ID], &both, "claimed"),
        (
            &[
                "dead-letter",
                "retry",
                "00000000-0000-4000-8000-000000000000",
            ],
            &both,
            "no",
        ),
        (&["in-doubt", "list"], &both, "removed"),
        (
            &["in-doubt", "charged", "--yes", "--reason", REASON, ID],
            &both,
            "left alone",
        ),
        (&["routing"], &both, "disabled"),
        (
            &["routing", "disable", "nobody", "--reason", REASON],
            &both,
            "nobody",
        ),
        (&["deployment", "show"], &both, LONG_NAME),
        (
            &["deployment", "declare", "checked", "--reason", &declared],
            &both,
            "refused",
        ),
        (
            &["deployment", "declare", "moved", "--reason", &declared],
            &both,
            "moved: ",
        ),
        (&["deployment", "show"], &both, "declared"),
        (
            &["archive", "--before", "2025-08", "--to", files, "--dry-run"],
            &both,
            "would go",
        ),
        (
            &["archive", "--before", "2025-08", "--to", files],
            &both,
            "dead letters",
        ),
        (
            &["archive", "--before", "2025-08", "--to", files],
            &both,
            "stays in the ledger",
        ),
        (
            &["restore", "2025-05", "--from", files],
            &both,
            "nothing was changed",
        ),
        (
            &["restore", "2025-06", "--from", files, "--dry-run"],
            &both,
            "would come back",
        ),
        (
            &["restore", "2025-06", "--from", files],
            &both,
            "in the ledger again",
        ),
        (
            &["reconcile", "--without", "removed"],
            &both,
            "no processor has it",
        ),
        (&["reconcile", "--token", "123"], &both, "totals of"),
        (&["reconcile", "--token", "wrong"], &both, "no answer"),
        (&["reconcile"], &one, "was not asked"),
        (
            &["reconcile", "--from", "1h"],
            "default,0.05,http://127.0.0.1:1",
            "the first",
        ),
        (
            &["reconcile", "--without", "removed", "--ids", ids],
            &both,
            "never posted",
        ),
    ];
    let mut tried = BTreeSet::new();
    for (arguments, processors, expected) in commands {
        let mut command = program(&site.database.url, arguments);
        let (_, text) = run(command.env("PROCESSORS", processors)).await;
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(expected), "{arguments:?}: {text}");
        fits(80, arguments, &text);
        tried.insert(arguments[0].to_owned());
        if expected == &"dead letters" {
            site.database.execute(late).await;
        }
    }
    let (_, status) = run(&mut program(&site.database.url, &["status"])).await;
    let removed = status.lines().find(|line| line.starts_with("removed "));
    let mut words = removed.expect("a row").split_whitespace();
    assert_eq!(words.nth(1), Some("removed"), "{status}");
    for columns in ["60", "120"] {
        let mut narrow = program(&site.database.url, &["reconcile"]);
        let narrow = narrow.env("PROCESSORS", &both).env("COLUMNS", columns);
        let (_, text) = run(narrow).await;
        fits(columns.parse().expect("a number"), &["reconcile"], &text);
        let is_wide = text.lines().any(|line| line.chars().count() > 80);
        assert_eq!(is_wide, columns == "120", "{text}");
    }

    // All that there are, and how each is used.
    let (_, help) = run(program("", &["--help"]).env("COLUMNS", "80")).await;
    fits(80, &["--help"], &help);
    let commands = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"));
    let commands = commands.skip(1).take_while(|line| !line.is_empty());
    for name in commands
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
    {
        let is_known = tried.contains(name) || NOT_READ.contains(&name);
        assert!(is_known, "nobody has tried {name}");
        let (_, help) = run(program("", &[name, "--help"]).env("COLUMNS", "80")).await;
        fits(80, &[name, "--help"], &help);
    }
}

/// What the program draws on a terminal of 80 columns, and what it prints in the end.
async fn on_a_terminal(database: &Database, arguments: &str, processors: &str) -> String {
    let program = env!("CARGO_BIN_EXE_payment-proxy");
    let mut terminal = Command::new("script");
    let terminal = terminal
        .args(["--quiet", "--return", "--command"])
        .arg(format!("stty cols 80 rows 24; exec {program} {arguments}"))
        .arg("/dev/null")
        .env("DATABASE_URL", &database.url)
        .env("PROCESSORS", processors)
        .env("TERM", "xterm")
        .stdin(Stdio::null());
    let output = terminal.output().await.expect("script(1) runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The lines that were drawn, one over the other, without what moves the cursor.
fn drawn(screen: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut letters = screen.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\r' | '\n' => lines.push(String::new()),
            '\u{1b}' => {
                let _ = letters.find(|letter| letter.is_ascii_alphabetic());
            }
            _ => lines.last_mut().expect("a line").push(letter),
        }
    }
    lines
}

#[tokio::test]
async fn a_person_at_a_terminal_sees_how_far_a_command_is() {
    let (database, default) = (filled().await, processor().await);
    let folder = tempfile::tempdir().expect("a folder");
    let files = Path::new(folder.path()).display();
    let processors = terms(&[&default]);
    for (arguments, steps, result) in [
        (
            "reconcile --rate 2000 --from 2025-05-31T22:00 --to 2025-05-31T22:18".to_owned(),
            &["500 of "][..],
            "differ",
        ),
        (
            format!("archive --before 2025-07 --to {files}"),
            &[
                "2025-05 moving",
                "2025-06 moving",
                "of 4,000 payments",
                "of 6,000 payments",
            ],
            "2025-06: 6000 payments of",
        ),
        (
            format!("restore 2025-06 --from {files}"),
            &["of 6,000 payments"],
            "are in the ledger again",
        ),
    ] {
        let screen = on_a_terminal(&database, &arguments, &processors).await;
        let lines = drawn(&screen);
        for step in steps {
            let is_drawn = |line: &String| line.contains(step) && line.contains("left");
            assert!(lines.iter().any(is_drawn), "{step} is not in {screen:?}");
        }
        let printed = lines.iter().position(|line| line.contains(result));
        let last = lines.iter().rposition(|line| line.contains(" left"));
        assert!(printed > last, "{arguments}: {screen:?}");
        for line in &lines {
            assert!(line.chars().count() <= 80, "{arguments}: {line:?}");
        }
        // Where nobody looks it draws nothing.
        let arguments = arguments.split(' ').collect::<Vec<_>>();
        let mut command = program(&database.url, &arguments);
        let (_, text) = run(command.env("PROCESSORS", &processors)).await;
        assert!(!text.contains("/s, ") && !text.contains('\u{1b}'), "{text}");
    }
}
