use std::fs;

use super::*;
use crate::cache::{Limits, Policy};
use crate::repository::scripted::Folder;
use crate::rows::Filling;

fn parsed(text: &str) -> ModelSettings {
    ModelSettings::parse(text, "m/model.toml").expect("it is right")
}

fn refused(text: &str) -> String {
    let error = ModelSettings::parse(text, "m/model.toml").expect_err("it is wrong");
    error.message().to_owned()
}

fn cache(text: &str) -> CacheOptions {
    parsed(text).cache.expect("answers are kept")
}

#[test]
fn an_empty_file_leaves_everything_as_it_is_without_one() {
    let settings = parsed("");
    assert_eq!(settings, ModelSettings::default());
    assert_eq!(settings.engine, EngineChoice::Auto);
    assert_eq!(settings.batching, Batching::WherePossible);
    assert_eq!(settings.versions, VersionPolicy::Latest(1));
    assert_eq!(
        (settings.cache.clone(), settings.instances(), settings.timeout()),
        (None, None, None)
    );
}

#[test]
fn everything_can_be_said() {
    let settings = parsed(
        r#"
        engine = "onnxruntime"
        batch_axes = { x = 1, mask = "none" }
        rows_independent = true
        threads = 2
        instances = 3
        versions = [7, 3, 7]
        labels = { stable = 3, canary-2 = 7 }
        breaking = true

        [cache]
        max_bytes = "1.5 MiB"
        max_entries = 100
        ttl = 0.5
        by = "row"
        policy = "s3-fifo"

        [batching]
        max_rows = 32
        max_delay = 0.001
        max_queue = 64
        target_latency = 0.25
        timeout = 10

        [[warmup]]
        count = 2
        inputs = { x = { shape = [1, 4], value = "random" }, mask = { shape = [] } }
        "#,
    );
    let expected = ModelSettings {
        engine: EngineChoice::Onnxruntime,
        cache: Some(CacheOptions {
            settings: CacheSettings {
                limits: Limits {
                    max_bytes: 1_572_864,
                    max_entries: 100,
                },
                ttl: Some(Duration::from_millis(500)),
                policy: Policy::S3Fifo,
            },
            by: CacheBy::Row,
            shared: None,
        }),
        batching: Batching::Required(BatchOptions {
            max_rows: Some(32),
            max_delay: Duration::from_millis(1),
            max_queue: 64,
            instances: None,
            target_latency: Some(Duration::from_millis(250)),
            timeout: Some(Duration::from_secs(10)),
            pad: Vec::new(),
        }),
        batch_axes: BTreeMap::from([("mask".to_owned(), None), ("x".to_owned(), Some(1))]),
        rows_independent: Some(true),
        threads: Some(2),
        instances: Some(3),
        versions: VersionPolicy::Listed(BTreeSet::from([3, 7])),
        labels: BTreeMap::from([("canary-2".to_owned(), 7), ("stable".to_owned(), 3)]),
        warmup: vec![Warmup {
            inputs: BTreeMap::from([
                ("mask".to_owned(), warmup_input(vec![], WarmupValue::Zeros)),
                ("x".to_owned(), warmup_input(vec![1, 4], WarmupValue::Random)),
            ]),
            count: 2,
        }],
        breaking: true,
    };
    assert_eq!(settings, expected);
    assert_eq!(
        settings.declared_axes(),
        [("mask".to_owned(), None), ("x".to_owned(), Some(1))]
    );
    assert_eq!(
        (settings.instances(), settings.timeout()),
        (Some(3), Some(Duration::from_secs(10)))
    );
    let batches = settings.batch_settings(1).expect("calls are combined");
    assert_eq!(
        (batches.instances, batches.max_rows, batches.max_queue),
        (3, Some(32), 64)
    );
}

fn warmup_input(shape: Vec<i64>, value: WarmupValue) -> WarmupInput {
    WarmupInput { shape, value }
}

#[test]
fn sizes_are_written_as_in_python() {
    let sizes = [
        ("256MB", 256_000_000),
        ("1.5 GiB", 1_610_612_736),
        (" 3KB ", 3_000),
        ("1B", 1),
        ("0.3KB", 300),
        ("1.999999999KiB", 2047),
    ];
    for (text, bytes) in sizes {
        let settings = cache(&format!("cache = \"{text}\"")).settings;
        assert_eq!(settings.limits.max_bytes, bytes, "{text}");
        assert_eq!(settings.limits.max_entries, usize::MAX);
    }
    assert_eq!(cache("cache.max_bytes = 4096").settings.limits.max_bytes, 4096);
    assert_eq!(cache("[cache]").settings.limits.max_bytes, 256_000_000);
    assert_eq!(parsed("cache = false").cache, None);
    for text in [
        "", "MB", "10", "10XB", "-1MB", "1e3MB", "1.MB", ".5MB", "1.2.3MB", "10mb", "1 M B", "٣MB",
    ] {
        let units = "B, KB, MB, GB, TB, KiB, MiB, GiB, TiB";
        let expected = format!(
            "m/model.toml:1: `cache`: `{text}` is no size: write a number and one of {units}, such as \"256MB\""
        );
        assert_eq!(refused(&format!("cache = \"{text}\"")), expected);
    }
    for (text, bytes) in [
        ("\"0B\"", "0"),
        ("\"999999999TB\"", "999999999000000000000"),
        ("0", "0"),
        ("-1", "-1"),
    ] {
        let expected = format!(
            "m/model.toml:1: `cache.max_bytes`: a size must be from 1 to {} bytes, not {bytes}",
            i64::MAX
        );
        assert_eq!(refused(&format!("cache.max_bytes = {text}")), expected);
    }
}

#[test]
fn batches_are_demanded_asked_for_or_refused() {
    assert_eq!(parsed("batching = false").batching, Batching::Off);
    assert!(parsed("batching = false").batch_settings(1).is_none());
    assert_eq!(
        parsed("batching = true").batching,
        Batching::Required(BatchOptions::default())
    );
    assert_eq!(
        parsed("[batching]").batching,
        Batching::Required(BatchOptions::default())
    );
    assert_eq!(parsed("batching.instances = 2").instances(), Some(2));
    assert_eq!(parsed("instances = 2\nbatching.instances = 2").instances(), Some(2));
    let batches = parsed("").batch_settings(4).expect("where that is possible");
    assert_eq!((batches.instances, batches.max_queue), (4, 10_000));
    assert_eq!(
        refused("instances = 1\nbatching.instances = 2"),
        "m/model.toml: `instances` is 1 and `batching.instances` is 2: leave one of them out"
    );
}

#[test]
fn versions_are_all_the_latest_or_listed() {
    assert_eq!(parsed("versions = \"all\"").versions, VersionPolicy::All);
    assert_eq!(parsed("versions = { latest = 2 }").versions, VersionPolicy::Latest(2));
    assert_eq!(parsed("[versions]\nlatest = 2").versions, VersionPolicy::Latest(2));
}

fn check_refused(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(refused(text), format!("m/model.toml:{expected}"), "{text}");
    }
}

#[test]
fn mistakes_about_how_a_model_runs_are_named_with_file_line_and_key() {
    check_refused(&[
        ("\n\nthreads = 0", "3: `threads`: it must be from 1 to 1024, not 0"),
        ("threads = -1", "1: `threads`: it must be from 1 to 1024, not -1"),
        (
            "threads = \"2\"",
            "1: `threads`: invalid type: string \"2\", expected i64",
        ),
        (
            "engine = \"native\"",
            "1: `engine`: unknown variant `native`, expected `auto` or `onnxruntime`",
        ),
        (
            "cache = true",
            "1: `cache`: say how much is kept, such as \"256MB\", instead of true",
        ),
        (
            "cache = 3",
            "1: `cache`: invalid type: integer `3`, expected false, a size such as \"256MB\" or a table",
        ),
        (
            "# a comment\n[cache]\nmax_bytes = \"1MB\"\nttl = 0",
            "4: `cache.ttl`: it must be more than 0 and at most 3153600000 seconds, not 0",
        ),
        (
            "cache = { max_bytes = \"1MB\", by = \"rows\" }",
            "1: `cache.by`: unknown variant `rows`, expected `request` or `row`",
        ),
        (
            "cache = { policy = \"fifo\" }",
            "1: `cache.policy`: unknown variant `fifo`, expected `lru` or `s3-fifo`",
        ),
        (
            "[cache]\nmax_byte = 3",
            "2: `cache.max_byte`: unknown field `max_byte`, expected one of `max_bytes`, `max_entries`, `ttl`, `by`, \
             `policy`, `shared`, `secret`, `shared_timeout`",
        ),
        (
            "batching = 3",
            "1: `batching`: invalid type: integer `3`, expected true, false or a table",
        ),
        (
            "[batching]\n\nmax_rows = 0",
            "3: `batching.max_rows`: it must be from 1 to 2147483647, not 0",
        ),
        (
            "batching.max_delay = 61",
            "1: `batching.max_delay`: it must be at least 0 and at most 60 seconds, not 61",
        ),
        (
            "batching.max_delay = nan",
            "1: `batching.max_delay`: it must be at least 0 and at most 60 seconds, not NaN",
        ),
        (
            "batching.timeout = inf",
            "1: `batching.timeout`: it must be more than 0 and at most 3153600000 seconds, not inf",
        ),
        (
            "batch_axes = { x = \"no\" }",
            "1: `batch_axes.x`: invalid value: string \"no\", expected an axis from 0 or \"none\"",
        ),
        (
            "batch_axes = { x = -1 }",
            "1: `batch_axes.x`: invalid value: integer `-1`, expected an axis from 0 or \"none\"",
        ),
    ]);
}

#[test]
fn mistakes_about_versions_and_warming_up_are_named_with_file_line_and_key() {
    check_refused(&[
        (
            "versions = []",
            "1: `versions`: the list must name at least one version",
        ),
        (
            "versions = [1,\n0]",
            "1: `versions`: a version must be at least 1, not 0",
        ),
        (
            "versions = \"some\"",
            "1: `versions`: invalid value: string \"some\", expected \"all\", {latest = N} or a list of numbers",
        ),
        (
            "versions = { latest = 0 }",
            "1: `versions`: it must be from 1 to 2147483647, not 0",
        ),
        (
            "labels = { stable = 0 }",
            "1: `labels.stable`: a version must be at least 1, not 0",
        ),
        (
            "[labels]\n\"3\" = 4",
            "2: `labels.3`: a label must be of letters, digits, `_`, `-` and `.`, begin with no `.`, and be no number",
        ),
        (
            "[[warmup]]\ninputs = { x = { shape = [1] } }\n[[warmup]]\ninputs = { x = { shape = [-1] } }",
            "4: `warmup.inputs.x.shape`: shape [-1] has a negative extent",
        ),
        (
            "warmup = [{ inputs = { x = { shape = [99999, 99999] } } }]",
            "1: `warmup.inputs.x.shape`: shape [99999, 99999] has 9999800001 elements, more than 268435456",
        ),
        (
            "warmup = [{ inputs = {}, count = 0 }]",
            "1: `warmup.count`: it must be from 1 to 10000, not 0",
        ),
        (
            "breaking = 1",
            "1: `breaking`: invalid type: integer `1`, expected a boolean",
        ),
    ]);
    let unknown = refused("threads = 1\nthread = 2");
    assert!(
        unknown.starts_with("m/model.toml:2: `thread`: unknown field `thread`, expected one of `engine`"),
        "{unknown}"
    );
}

#[test]
fn what_is_no_toml_is_named_with_its_line() {
    for text in [
        "\nthreads = ",
        "\nthreads",
        "\n= 3",
        "threads = 1\nthreads = 2",
        "\n[cache",
        "\ncache = {",
    ] {
        let error = refused(text);
        assert!(error.starts_with("m/model.toml:2: "), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn deep_nesting_is_refused_and_nothing_worse() {
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        let text = format!("warmup = {}{}", open.repeat(100_000), close.repeat(100_000));
        assert!(refused(&text).starts_with("m/model.toml:1: "));
    }
    let dotted = format!("{} = 1", vec!["a"; 100_000].join("."));
    assert!(refused(&dotted).starts_with("m/model.toml"));
}

#[test]
fn a_file_is_read_or_named() {
    let folder = Folder::new();
    let path = folder.path().join("model.toml");
    assert_eq!(ModelSettings::read(&path).expect("there is none"), None);
    let read = |content: &[u8]| {
        fs::write(&path, content).expect("it is writable");
        ModelSettings::read(&path).map_err(|error| error.message().replace(&path.display().to_string(), "PATH"))
    };
    let settings = read(b"threads = 3").expect("it is right").expect("there is one");
    assert_eq!(settings.threads, Some(3));
    assert_eq!(read(b"\n\xff"), Err("PATH:2: it must be UTF-8".to_owned()));
    assert_eq!(
        read(&vec![b'#'; (1 << 20) + 1]),
        Err("PATH: it must have at most 1048576 bytes".to_owned())
    );
    let folder = ModelSettings::read(folder.path()).expect_err("it is no file");
    assert!(folder.message().ends_with(": it is no file"), "{folder}");
}

#[test]
fn settings_of_versions_and_labels_do_not_concern_how_a_model_is_opened() {
    let plain = parsed("threads = 2");
    assert!(plain.open_alike(&parsed(
        "threads = 2\nversions = \"all\"\nlabels.stable = 2\nbreaking = true"
    )));
    assert!(!plain.open_alike(&parsed("threads = 3")));
    assert!(!plain.open_alike(&parsed("threads = 2\ncache = \"1MB\"")));
}

mod random {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_text_is_worse_than_an_error(text in "\\PC{0,40}|(threads|cache|labels|versions)[ =.\\[\\]{}\"a-z0-9\n-]{0,60}") {
            if let Err(error) = ModelSettings::parse(&text, "m") {
                prop_assert!(error.message().starts_with("m:"));
            }
        }
    }
}

const SECRET: &str = "sixteen bytes or more";

#[test]
fn a_shared_cache_is_named_with_its_secret() {
    let shared = |text: &str| cache(text).shared.expect("it is shared");
    let clear = format!("[cache]\nshared = \"redis://h:1/2\"\nsecret = \"{SECRET}\"\nshared_timeout = 0.5");
    let clear = shared(&clear);
    assert_eq!(clear.secret.text(), SECRET);
    assert_eq!(clear.timeout, Duration::from_millis(500));
    let debugged = format!("{clear:?}");
    assert!(!debugged.contains(SECRET), "{debugged}");
    let folder = Folder::new();
    folder.put("secret", &format!("{SECRET}\n"));
    let path = folder.path().join("secret");
    let text = format!(
        "[cache]\nshared = \"redis://h:1/2\"\nsecret = {{ file = \"{}\" }}",
        path.display()
    );
    let of_file = shared(&text);
    assert_eq!(of_file.secret, clear.secret);
    assert_eq!(of_file.place, clear.place);
    assert_eq!(of_file.timeout, Duration::from_millis(20));
    // The one variable that every process of a test has.
    let path = std::env::var("PATH").expect("there is one");
    let of_variable = shared("[cache]\nshared = \"unix:///s\"\nsecret = { env = \"PATH\" }");
    assert_eq!(of_variable.secret.text(), path);
}

#[test]
fn a_shared_cache_that_cannot_be_used_is_refused_with_its_place() {
    let with = |rest: &str| refused(&format!("[cache]\nshared = \"redis://h\"\n{rest}"));
    let secret = format!("secret = \"{SECRET}\"");
    assert_eq!(
        with(""),
        "m/model.toml:1: `cache`: `shared` needs a `secret`, the same for all who share it: whoever reaches the server \
         could forge answers; write `secret = { env = \"NAME\" }` or `secret = { file = \"/path\" }`"
    );
    assert_eq!(
        with(&format!("{secret}\nby = \"row\"")),
        "m/model.toml:1: `cache`: `shared` holds answers to whole calls: leave it out, or write `by = \"request\"`"
    );
    for (rest, expected) in [
        (
            "secret = \"short\"",
            "`cache.secret`: it must have at least 16 bytes, not 5",
        ),
        (
            "secret = { env = \"INFERLITE_NO_SUCH\" }",
            "`cache.secret`: the environment has no variable `INFERLITE_NO_SUCH`",
        ),
        (
            "secret = { env = \"\" }",
            "`cache.secret`: the environment has no variable ``",
        ),
        (
            "secret = { file = \"/no/such\" }",
            "`cache.secret`: `/no/such` cannot be read: No such file or directory (os error 2)",
        ),
        (
            "secret = { file = \"a\" }",
            "`cache.secret`: `a` must be an absolute path",
        ),
        ("secret = { file = \"/\" }", "`cache.secret`: `/` is no file"),
        ("secret = {}", "`cache.secret`: it must name one of `env` and `file`"),
        (
            "shared_timeout = 0",
            "`cache.shared_timeout`: it must be more than 0 and at most 60 seconds, not 0",
        ),
    ] {
        assert_eq!(with(rest), format!("m/model.toml:3: {expected}"));
    }
    assert_eq!(
        refused(&format!("[cache]\nshared = \"redis://u@h\"\n{secret}")),
        "m/model.toml:2: `cache.shared`: it names a user without a password: write \
         `redis://user:password@host:6379/0` or `unix:///path/of.sock?db=0`"
    );
    assert_eq!(
        refused(&format!("[cache]\n{secret}")),
        "m/model.toml:1: `cache`: `secret` is of no use without `shared`"
    );
    assert_eq!(
        refused("cache = { shared_timeout = 1 }"),
        "m/model.toml:1: `cache`: `shared_timeout` is of no use without `shared`"
    );
}

#[test]
fn lengths_are_declared_as_a_table_or_as_several() {
    let lengths = |text: &str| parsed(text).lengths().to_vec();
    let named = |name: &str, axis| (name.to_owned(), axis);
    let filled = |name: &str, axis, filling| (name.to_owned(), axis, filling);
    let found = lengths(
        "[batching.pad]\ninputs = { ids = 1, mask = [1, 2] }\nsizes = [16, 32]\nvalue = { ids = -1 }\noutputs = { y = 1 }",
    );
    let expected = DeclaredLength {
        inputs: vec![
            filled("ids", 1, Filling::Integer(-1)),
            filled("mask", 1, Filling::Integer(0)),
            filled("mask", 2, Filling::Integer(0)),
        ],
        sizes: vec![16, 32],
        outputs: vec![named("y", 1)],
    };
    assert_eq!(found, [expected]);
    let found = lengths(
        "[[batching.pad]]\ninputs.a = 1\nsizes = [3]\nvalue = 0.5\n[[batching.pad]]\ninputs.b = 2\nsizes = [4]\nvalue = \"-\"",
    );
    let inputs: Vec<_> = found.into_iter().flat_map(|length| length.inputs).collect();
    let expected = [
        filled("a", 1, Filling::Number(0.5)),
        filled("b", 2, Filling::Text("-".to_owned())),
    ];
    assert_eq!(inputs, expected);
    assert!(lengths("batching = true").is_empty());
}

#[test]
fn lengths_that_make_no_sense_are_refused_with_their_place() {
    let with = |rest: &str| refused(&format!("[batching.pad]\n{rest}"));
    for (rest, expected) in [
        (
            "inputs = {}\nsizes = [3]",
            "2: `batching.pad.inputs`: it must name at least one input",
        ),
        (
            "inputs.x = -1\nsizes = [3]",
            "2: `batching.pad.inputs.x`: an axis must be from 0 to 2147483647, not -1",
        ),
        (
            "inputs.x = []\nsizes = [3]",
            "2: `batching.pad.inputs.x`: the list must name at least one axis",
        ),
        (
            "inputs.x = 1\nsizes = [4, 3]",
            "3: `batching.pad.sizes`: it must grow from 1 on, and the last be at least 3, not [4, 3]",
        ),
        (
            "inputs.x = 1\nsizes = []",
            "3: `batching.pad.sizes`: it must grow from 1 on, and the last be at least 3, not []",
        ),
        (
            "inputs.x = 1\nsizes = [0, 3]",
            "3: `batching.pad.sizes`: it must grow from 1 on, and the last be at least 3, not [0, 3]",
        ),
        ("sizes = [3]", "1: `batching.pad`: missing field `inputs`"),
        (
            "inputs.x = 1\nsizes = [3]\nsize = 1",
            "4: `batching.pad.size`: unknown field `size`, expected one of `inputs`, `sizes`, `value`, `outputs`",
        ),
        (
            "inputs.x = 1\nsizes = [3]\nvalue.y = 1",
            "1: `batching.pad`: `value` names `y`, which is none of its `inputs`: `x`",
        ),
    ] {
        assert_eq!(with(rest), format!("m/model.toml:{expected}"));
    }
}
