//! Holds crates of caches against what inferlite asks of its store, and writes docs/cache-crates.md.

mod demands;
mod peers;
mod timing;

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use demands::Finding;
use peers::{CRATES, INFERLITE, Maker};

#[global_allocator]
static ALLOCATOR: demands::Counting = demands::Counting;

const LOCK: &str = include_str!("../Cargo.lock");

type Trial = fn(&Maker) -> Finding;

const TRIALS: [(&str, &str, Trial); 6] = [
    (
        "exact budget in bytes",
        "answers of 16 to 3,984 bytes into 1,000,000; the bytes are counted by the answers",
        demands::budget,
    ),
    (
        "exact order of use",
        "look-ups compared with a list in order of use, room for 100 answers",
        demands::order,
    ),
    (
        "another size at run time",
        "half the budget, looked at as soon as the method returns",
        demands::resize,
    ),
    (
        "look-ups by borrowed bytes",
        "allocations of the thread that looks up",
        demands::borrowed,
    ),
    (
        SINGLE_FLIGHT,
        "one run with a value or an error wanted, two where the first panics",
        demands::single_flight,
    ),
    (
        "hits from two threads",
        "each on keys of its own, the quickest of many rounds; at least 1.6 times the hits of one thread wanted",
        timing::gain,
    ),
];

fn version(name: &str) -> &str {
    let entry = LOCK
        .split("[[package]]")
        .find(|entry| entry.contains(&format!("name = \"{name}\"\n")));
    entry
        .and_then(|entry| entry.lines().find_map(|line| line.strip_prefix("version = ")))
        .map_or("unknown", |version| version.trim_matches('"'))
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| "unknown".into(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// How many crates come with one, itself included.
fn closure(name: &str) -> usize {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let edges = [
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--no-dedupe",
        "--package",
        name,
    ];
    let tree = output(
        "cargo",
        &[&["tree", "--offline", "--manifest-path", manifest][..], &edges].concat(),
    );
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    names.collect::<std::collections::BTreeSet<_>>().len()
}

fn processor() -> String {
    let facts = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = facts
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.trim().to_owned())
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or("unknown").to_owned()
}

fn main() -> std::io::Result<()> {
    if cfg!(debug_assertions) {
        return Err(std::io::Error::other("only release builds are timed: pass `--release`"));
    }
    // Panics are part of the trials.
    std::panic::set_hook(Box::new(|_| {}));
    let load = load();
    let everyone = || std::iter::once(&INFERLITE).chain(&CRATES);

    let mut page = String::from(INTRODUCTION);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let facts = [
        ("processor", processor()),
        ("cores", cores.to_string()),
        ("compiler", output("rustc", &["--version"])),
        ("commit", output("git", &["rev-parse", "--short=12", "HEAD"])),
        ("load average at the start", load),
    ];
    page += "|  |  |\n| --- | --- |\n";
    for (what, fact) in facts {
        let _ = writeln!(page, "| {what} | {fact} |");
    }
    for maker in &CRATES {
        let _ = writeln!(
            page,
            "| {} | {}, {} crates with it |",
            maker.name,
            version(maker.name),
            closure(maker.name)
        );
    }

    page += "\n## Demands that the program tries\n\n";
    let mut unmet: [Vec<&str>; CRATES.len() + 1] = Default::default();
    for (demand, how, trial) in TRIALS {
        let _ = writeln!(
            page,
            "### {demand}\n\nTried: {how}.\n\n|  | met | found |\n| --- | --- | --- |"
        );
        for (position, maker) in everyone().enumerate() {
            let found = trial(maker);
            if !found.is_met {
                unmet[position].push(demand);
            }
            let _ = writeln!(
                page,
                "| {} | {} | {} |",
                maker.name,
                if found.is_met { "yes" } else { "no" },
                found.words
            );
        }
        page.push('\n');
    }

    page += COST;
    for maker in everyone() {
        let (hit, miss) = (timing::hit(maker), timing::miss(maker));
        let _ = writeln!(
            page,
            "| {} | {:.0} | {:.0} | {:.2} | {:.0} | {:.0} | {:.2} |",
            maker.name, hit.theirs, hit.ours, hit.ratio, miss.theirs, miss.ours, miss.ratio,
        );
    }

    page += INTERFACES;
    page += "\n## Conclusion\n\n";
    for (maker, unmet) in everyone().zip(&unmet) {
        let words = if unmet.is_empty() {
            "every demand".into()
        } else {
            format!("all but: {}", unmet.join(", "))
        };
        let _ = writeln!(page, "- {} meets {words}.", maker.name);
    }
    let fit = |may_lack: &[&str]| {
        let crates = CRATES.iter().zip(&unmet[1..]);
        let fitting = crates.filter(|(_, unmet)| unmet.iter().all(|demand| may_lack.contains(demand)));
        fitting.map(|(maker, _)| maker.name).collect::<Vec<_>>().join(", ")
    };
    let (all, store) = (fit(&[]), fit(&[SINGLE_FLIGHT]));
    page += match (all.as_str(), store.as_str()) {
        ("", "") => {
            "\nNo crate meets them all, nor all those of the store alone, without the single flight that inferlite \
            keeps beside it.\nThat is why the store is code of its own, on `hashbrown`'s table.\n"
                .into()
        }
        ("", store) => format!(
            "\nNo crate meets them all. Without the single flight, which inferlite keeps beside its store, these do: \
             {store}.\nWhether the store is still worth being code of its own is to be decided.\n"
        ),
        (all, _) => {
            format!("\nThese crates meet them all: {all}. Whether own code is still worth keeping is to be decided.\n")
        }
    }
    .as_str();
    print!("{page}");
    std::fs::write(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cache-crates.md"),
        page,
    )
}

const INTRODUCTION: &str = "\
# Crates of caches

Generated by `cargo run --release --manifest-path benches/crates/Cargo.toml`; do not edit.

inferlite's store is code of its own. Well-kept crates were held against what is asked of it: this page says what each of
them does, as tried by the program, and what a hit and a miss cost.

";

const INTERFACES: &str = "
## Demands that the interfaces settle

Read in the documentation, not tried.

|  | time to live by a clock of the caller | nothing but a count of references copied under a lock | a look-up that waits for nobody | a caller can stop waiting for another one's computation |
| --- | --- | --- | --- | --- |
| inferlite-core | yes | yes | yes | yes, it is asked every 50 ms |
| quick_cache | no; a time in the value, checked by the caller, would do | yes, with values in an `Arc` | yes, `try_get` | yes, a time to wait at most |
| moka | no, a clock of its own | yes, with values in an `Arc` | yes, its table takes no lock to read | no |
| foyer-memory | no; as quick_cache | yes, entries are counted references | no, a hit takes the write lock of a shard | yes, a future can be dropped |
| lru | no; as quick_cache | yes, with values in an `Arc` | as the mutex around it allows | no single flight |
| schnellru | no; as quick_cache | yes, with values in an `Arc` | as the mutex around it allows | no single flight |
";

const SINGLE_FLIGHT: &str = "one computation for all who ask";

const COST: &str = "\
## Cost

Medians of paired, alternating rounds, in nanoseconds; the ratio is inferlite's time over the crate's. Keys of 64 bytes,
1,000 answers. inferlite's look-up makes its key from the inputs of a call, and its miss goes through the single flight
and makes a copy of the answer; the crates are handed keys, and miss by `get` and `insert`. `lru` and `schnellru` stand
behind a mutex.

| | hit | inferlite's | ratio | miss that evicts | inferlite's | ratio |
| --- | --: | --: | --: | --: | --: | --: |
";
