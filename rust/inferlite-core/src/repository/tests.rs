use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::scripted::{Folder, SETTLE, Stage};
use super::*;

const ONE: (&str, &str) = ("m/1/model.onnx", "good 1");
const TWO: (&str, &str) = ("m/2/model.onnx", "good 2");
const THREE: (&str, &str) = ("m/3/model.onnx", "good 3");

fn message<T: fmt::Debug>(result: Result<T>) -> String {
    result.expect_err("it fails").message().to_owned()
}

#[test]
fn all_that_lies_in_the_folder_is_loaded() {
    let stage = Stage::over(&[ONE, TWO, ("single.onnx", "good s"), ("flat/model.onnx", "good f")]);
    assert!(!stage.repository.is_ready());
    assert_eq!(stage.serves("m", None), "there is no model `m`");
    stage.load_all();
    assert!(stage.repository.is_ready());
    assert_eq!(stage.index(), ["flat 1 READY", "m 2 READY", "single 1 READY"]);
    for (name, content) in [("m", "good 2"), ("single", "good s"), ("flat", "good f")] {
        assert_eq!(stage.serves(name, None), content);
    }
    let names: Vec<_> = stage
        .repository
        .models()
        .iter()
        .map(|model| model.name.to_string())
        .collect();
    assert_eq!(names, ["flat", "m", "single"]);
}

#[test]
fn what_happens_while_loading_is_told() {
    let stage = Stage::with(&[ONE, ("n/1/model.onnx", "bad")]);
    let version = |name: &str, version| (name.to_owned(), version);
    let (m, n) = (version("m", 1), version("n", 1));
    let events = [
        Event::Found { models: 2 },
        Event::Loading {
            name: m.0.clone(),
            version: m.1,
        },
        Event::Loaded {
            name: m.0,
            version: m.1,
            took: Duration::ZERO,
        },
        Event::Loading {
            name: n.0.clone(),
            version: n.1,
        },
        Event::Failed {
            name: n.0,
            version: Some(n.1),
            reason: "no model in `bad`".to_owned(),
        },
    ];
    assert_eq!(stage.events(), events);
    stage.settle();
    assert_eq!(stage.events(), []);
    stage.remove("m");
    stage.settle();
    assert_eq!(
        stage.events(),
        [Event::Unloaded {
            name: "m".to_owned(),
            version: 1
        }]
    );
}

struct NoOpener;

impl Opener for NoOpener {
    fn open(&self, _: &VersionFiles, _: &ModelSettings) -> Result<Arc<Model>> {
        unreachable!("nothing is loaded")
    }
}

#[test]
fn a_folder_that_is_not_there_is_no_repository() {
    let path = Folder::new().path().to_owned();
    let made = Repository::new(
        path.clone(),
        Box::new(NoOpener),
        RepositorySettings::default(),
        Clock::default(),
    );
    let error = made.expect_err("it is not there");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let expected = format!(
        "the repository `{}` cannot be read: No such file or directory (os error 2)",
        path.display()
    );
    assert_eq!(error.message(), expected);
}

#[test]
fn a_request_finds_versions_and_labels() {
    let stage = Stage::with(&[
        ONE,
        TWO,
        THREE,
        ("m/model.toml", "versions = [1]\nlabels = { stable = 2, canary = 3 }"),
    ]);
    assert_eq!(stage.serves("m", None), "good 2");
    for (asked, content) in [
        ("1", "good 1"),
        ("stable", "good 2"),
        ("3", "good 3"),
        ("canary", "good 3"),
    ] {
        assert_eq!(stage.serves("m", Some(asked)), content);
    }
    for asked in ["4", "01", "+1", "1 ", "-1", "", "beta", "99999999999999999999999"] {
        assert_eq!(
            stage.serves("m", Some(asked)),
            format!("model `m` has no version `{asked}`")
        );
    }
    let listed = stage.repository.model("m").expect("it serves");
    assert_eq!(listed.labels, [("canary".to_owned(), 3), ("stable".to_owned(), 2)]);
    let versions: Vec<_> = listed.versions.iter().map(|served| &*served.version_text).collect();
    assert_eq!(versions, ["1", "2", "3"]);
}

#[test]
fn the_only_model_needs_no_name() {
    let stage = Stage::with(&[]);
    let only_version = |stage: &Stage, version| match stage.repository.only(version) {
        Ok(served) => served.model.name().to_owned(),
        Err(error) => error.to_string(),
    };
    let only = |stage: &Stage| only_version(stage, None);
    assert!(stage.repository.is_ready());
    assert_eq!(only(&stage), "no model is served");
    stage.put(ONE.0, ONE.1);
    stage.settle();
    assert_eq!(only(&stage), "good 1");
    assert_eq!(only_version(&stage, Some("1")), "good 1");
    let missing = stage.repository.find("m", Some("9")).expect_err("it is not there");
    assert_eq!(only_version(&stage, Some("9")), missing.to_string());
    stage.put("n.onnx", "good n");
    stage.settle();
    assert_eq!(only(&stage), "name one of the 2 models that are served: `m`, `n`");
}

#[test]
fn a_new_version_takes_over_once_its_files_have_settled() {
    let stage = Stage::with(&[ONE]);
    stage.put(TWO.0, "half");
    stage.scan();
    stage.hand.advance(SETTLE / 2);
    stage.put(TWO.0, TWO.1);
    stage.scan();
    stage.hand.advance(SETTLE / 2);
    stage.scan();
    assert_eq!(stage.serves("m", None), "good 1");
    stage.hand.advance(SETTLE / 2);
    stage.scan();
    assert_eq!(stage.serves("m", None), "good 2");
    assert_eq!(stage.index(), ["m 2 READY"]);
    assert_eq!(stage.opened(), ["good 1", "good 2"]);
}

#[test]
fn files_that_are_being_written_are_no_files() {
    let stage = Stage::with(&[ONE]);
    for name in [".hidden", "model.onnx.tmp", "model.onnx.part", "model.onnx~"] {
        stage.put(&format!("m/1/{name}"), "half");
        stage.put(&format!("m/{name}"), "half");
        stage.put(name, "half");
        stage.put(&format!("m/2{name}/model.onnx"), "half");
    }
    stage.settle();
    stage.settle();
    assert_eq!(stage.opened(), ["good 1"]);
}

#[test]
fn a_version_that_is_replaced_in_place_is_another_instance() {
    let stage = Stage::with(&[ONE]);
    let before = stage.repository.find("m", None).expect("it serves");
    stage.put(ONE.0, "good one");
    stage.settle();
    let after = stage.repository.find("m", Some("1")).expect("it serves");
    assert_eq!(after.model.name(), "good one");
    assert_ne!(before.instance, after.instance);
    assert!(!Arc::ptr_eq(&before.model, &after.model));
}

#[test]
fn weights_beside_a_model_are_part_of_it() {
    let files = [
        ("m/1/weights/a.bin", "1"),
        ("single.onnx.data", "1"),
        ("flat/flat.bin", "1"),
    ];
    let models = [ONE, ("single.onnx", "good s"), ("flat/model.onnx", "good f")];
    let stage = Stage::with(&[files, models].concat());
    stage.opened();
    for (path, opens) in [(files[0].0, "good 1"), (files[1].0, "good s"), (files[2].0, "good f")] {
        stage.put(path, "2");
        stage.settle();
        assert_eq!(stage.opened(), [opens], "{path}");
    }
    stage.put("single.other", "2");
    stage.put("flat/notes.tmp", "2");
    stage.settle();
    assert_eq!(stage.opened(), [""; 0]);
}

#[test]
fn the_old_version_goes_with_its_last_request() {
    let stage = Stage::with(&[ONE]);
    let held = stage.repository.find("m", None).expect("it serves");
    let model = Arc::downgrade(&held.model);
    stage.put(TWO.0, TWO.1);
    stage.settle();
    assert_eq!(stage.index(), ["m 1 UNLOADING", "m 2 READY"]);
    assert_eq!(held.model.name(), "good 1");
    drop(held);
    assert_eq!(stage.index(), ["m 2 READY"]);
    assert!(model.upgrade().is_none());
}

#[test]
fn what_fails_leaves_the_old_version_where_it_is() {
    let stage = Stage::with(&[ONE]);
    let before = stage.repository.find("m", None).expect("it serves");
    stage.put(TWO.0, "bad 2");
    stage.settle();
    assert_eq!(stage.index(), ["m 1 READY", "m 2 UNAVAILABLE no model in `bad 2`"]);
    let not_ready = "version `2` of model `m` is not ready: no model in `bad 2`";
    assert_eq!(stage.serves("m", Some("2")), not_ready);
    stage.put(ONE.0, "bad 1");
    stage.settle();
    assert_eq!(
        stage.index(),
        ["m 1 READY", "m 2 UNAVAILABLE no model in `bad 2`"],
        "1 is not wanted any more, so that it is not opened"
    );
    let after = stage.repository.find("m", None).expect("it serves");
    assert!(Arc::ptr_eq(&before, &after));
    drop((before, after));
    stage.opened();
    stage.settle();
    assert_eq!(
        stage.opened(),
        [""; 0],
        "what has failed is not tried again until it changes"
    );
    stage.put(TWO.0, TWO.1);
    stage.settle();
    assert_eq!(stage.index(), ["m 2 READY"]);
}

#[test]
fn what_has_failed_is_tried_again_when_it_or_its_settings_change_or_somebody_loads_it() {
    let all = "versions = \"all\"";
    let stage = Stage::with(&[ONE, ("m/2/model.onnx", "bad 2"), ("m/model.toml", all)]);
    stage.opened();
    let failed = "m 2 UNAVAILABLE no model in `bad 2`";
    stage.put(THREE.0, THREE.1);
    stage.settle();
    assert_eq!(stage.opened(), ["good 3"]);
    assert_eq!(stage.index(), ["m 1 READY", failed, "m 3 READY"]);
    stage.put("m/model.toml", all);
    stage.settle();
    assert_eq!(stage.opened(), ["bad 2"]);
    stage.remove("m/3");
    stage.settle();
    assert_eq!(stage.opened(), [""; 0]);
    assert_eq!(stage.index(), ["m 1 READY", failed]);
    assert!(stage.repository.load("m").is_err());
    assert_eq!(stage.opened(), ["bad 2"]);
    stage.put(TWO.0, TWO.1);
    stage.settle();
    assert_eq!(stage.opened(), ["good 2"]);
    assert_eq!(stage.index(), ["m 1 READY", "m 2 READY"]);
}

#[test]
fn what_could_not_take_over_is_tried_again_when_it_could() {
    let stage = Stage::with(&[TWO, ("m/model.toml", "versions = \"all\"")]);
    stage.put(THREE.0, "narrow 3");
    stage.settle();
    assert_eq!(stage.opened(), ["good 2", "narrow 3"]);
    stage.put("m/4/model.onnx", "bad 4");
    stage.settle();
    assert_eq!(stage.opened(), ["bad 4"]);
    stage.put(ONE.0, ONE.1);
    stage.settle();
    assert_eq!(stage.opened(), ["good 1"]);
    stage.repository.unload("m").expect("it serves");
    stage.remove("m/2");
    stage.settle();
    assert_eq!(stage.opened(), ["good 1", "narrow 3"]);
    assert_eq!(stage.serves("m", None), "narrow 3");
}

#[test]
fn a_file_that_fails_in_the_place_of_one_that_serves_is_told() {
    let stage = Stage::with(&[ONE]);
    stage.put(ONE.0, "bad 1");
    stage.settle();
    assert_eq!(stage.serves("m", None), "good 1");
    assert_eq!(stage.index(), ["m 1 READY no model in `bad 1`"]);
    stage.remove(ONE.0);
    stage.settle();
    assert_eq!(stage.serves("m", None), "good 1");
    let index = "m 1 READY ROOT/m/1/model.onnx: it cannot be read: No such file or directory (os error 2)";
    assert_eq!(stage.index(), [index]);
}

#[test]
fn what_cannot_be_served_for_its_name_or_place_is_in_the_index() {
    let stage = Stage::with(&[
        ONE,
        ("m/01/model.onnx", "good 01"),
        ("m/model.onnx", "good m"),
        ("m.onnx", "good m"),
        ("a b/1/model.onnx", "good ab"),
    ]);
    let index = [
        "a b - UNAVAILABLE ROOT/a b: `a b` can be no model's name, which must be of at most 200 letters, digits, `_`, \
         `-` and `.`, and begin with no `.`: rename it",
        "m 1 READY",
        "m 01 UNAVAILABLE ROOT/m/01: `01` is no version, which must be a positive number without leading zeros: rename it",
        "m model.onnx UNAVAILABLE ROOT/m/model.onnx: the folder `1` is the same version, and counts: take one of them \
         away, or put the file into a folder of another number",
        "m.onnx - UNAVAILABLE ROOT/m.onnx: the folder `m` is the same model, and counts: rename one of them, or take it \
         away",
    ];
    assert_eq!(stage.index(), index);
    assert!(stage.repository.is_ready());
    for path in ["a b", "m/01", "m/model.onnx", "m.onnx"] {
        stage.remove(path);
    }
    stage.settle();
    assert_eq!(stage.index(), ["m 1 READY"]);
}

#[test]
fn a_panic_is_an_error_of_one_model() {
    let stage = Stage::with(&[("a/1/model.onnx", "panic a"), ("b/1/model.onnx", "good b")]);
    let reason = "it panicked while it was being loaded: as told by `panic a`";
    assert_eq!(
        stage.index(),
        [format!("a 1 UNAVAILABLE {reason}"), "b 1 READY".to_owned()]
    );
    assert_eq!(
        stage.serves("a", None),
        format!("model `a` is not ready: version 1: {reason}")
    );
    assert_eq!(stage.serves("b", None), "good b");
    assert!(stage.repository.is_ready());
    stage.put("a/1/model.onnx", "good a");
    stage.settle();
    assert_eq!(stage.serves("a", None), "good a");
}

#[test]
fn a_repository_of_which_nothing_loads_is_not_ready() {
    let stage = Stage::with(&[("a/1/model.onnx", "bad")]);
    assert!(!stage.repository.is_ready());
    stage.put("a/1/model.onnx", "good");
    stage.settle();
    assert!(stage.repository.is_ready());
}

#[test]
fn a_version_whose_files_go_while_another_one_fails_stays_only_where_it_is_needed() {
    let stage = Stage::with(&[ONE, TWO, ("m/model.toml", "versions = \"all\"")]);
    stage.put(THREE.0, "bad 3");
    stage.remove("m/1");
    stage.settle();
    let failed = "m 3 UNAVAILABLE no model in `bad 3`";
    assert_eq!(stage.index(), ["m 2 READY", failed]);
    stage.remove("m/2");
    stage.settle();
    assert_eq!(stage.index(), ["m 2 READY", failed]);
    stage.put(THREE.0, THREE.1);
    stage.settle();
    assert_eq!(stage.index(), ["m 3 READY"]);
}

#[test]
fn a_process_that_starts_with_a_bad_newest_version_serves_the_one_before() {
    let mut stage = Stage::with(&[ONE, TWO]);
    stage.put(THREE.0, "bad 3");
    stage.settle();
    let index = ["m 2 READY", "m 3 UNAVAILABLE no model in `bad 3`"];
    assert_eq!(stage.index(), index);
    stage.restart();
    assert_eq!(stage.index(), index);
}

#[test]
fn files_that_change_while_they_are_read_do_not_serve() {
    let stage = Stage::with(&[]);
    let root = stage.folder.path().to_owned();
    stage.put(ONE.0, ONE.1);
    stage.script.meanwhile(move |files| {
        let longer = std::fs::read_to_string(&files.path).expect("it is there") + " and more";
        std::fs::write(root.join(ONE.0), longer).expect("it is ours");
    });
    stage.settle();
    let changed = "m 1 UNAVAILABLE its files have changed while it was being loaded";
    assert_eq!(stage.index(), [changed]);
    stage.script.meanwhile(|_| ());
    stage.settle();
    assert_eq!(stage.serves("m", None), "good 1 and more");
}

#[test]
fn a_version_that_callers_of_the_old_one_could_not_call_is_refused() {
    let stage = Stage::with(&[ONE]);
    stage.put(TWO.0, "narrow 2");
    stage.settle();
    let reason = "it cannot take over from version 1, which serves: input `x` takes tensor(float) [1, 4] now, and \
                  tensor(float) [batch, 4] before; `breaking = true` in `model.toml` lets it";
    assert_eq!(
        stage.index(),
        ["m 1 READY".to_owned(), format!("m 2 UNAVAILABLE {reason}")]
    );
    stage.put("m/model.toml", "breaking = true");
    stage.settle();
    assert_eq!(stage.serves("m", None), "narrow 2");
    stage.remove("m/model.toml");
    stage.put(THREE.0, THREE.1);
    stage.settle();
    assert_eq!(stage.serves("m", None), "good 3");
}

#[test]
fn to_replace_a_version_in_place_is_checked_as_well() {
    let stage = Stage::with(&[ONE]);
    stage.put(ONE.0, "narrow 1");
    stage.settle();
    assert_eq!(stage.serves("m", None), "good 1");
    let index = stage.index();
    assert!(
        index[0].starts_with("m 1 READY it cannot take over from version 1, which serves"),
        "{index:?}"
    );
}

#[test]
fn a_lower_number_may_always_take_over() {
    let stage = Stage::with(&[("m/1/model.onnx", "narrow 1"), TWO]);
    stage.remove("m/2");
    stage.settle();
    assert_eq!(stage.serves("m", None), "narrow 1");
}

#[test]
fn labels_move_without_opening_anything() {
    let settings = |stable| format!("versions = \"all\"\nlabels.stable = {stable}");
    let stage = Stage::with(&[ONE, TWO, ("m/model.toml", &settings(1))]);
    assert_eq!(stage.serves("m", None), "good 1");
    stage.opened();
    stage.put("m/model.toml", &settings(2));
    stage.settle();
    assert_eq!(stage.serves("m", None), "good 2");
    assert_eq!(stage.serves("m", Some("stable")), "good 2");
    assert_eq!(stage.opened(), [""; 0]);
    stage.put("m/model.toml", "versions = \"all\"\nthreads = 2");
    stage.settle();
    assert_eq!(stage.opened(), ["good 1", "good 2"]);
    assert_eq!(stage.serves("m", Some("stable")), "model `m` has no version `stable`");
}

#[test]
fn a_label_stays_where_it_is_if_its_new_version_fails() {
    let settings = |stable| format!("labels.stable = {stable}");
    let stage = Stage::with(&[ONE, ("m/model.toml", &settings(1))]);
    stage.put(TWO.0, "bad 2");
    stage.put("m/model.toml", &settings(2));
    stage.settle();
    assert_eq!(stage.serves("m", None), "good 1");
    assert_eq!(stage.serves("m", Some("stable")), "good 1");
    stage.put("m/model.toml", &settings(9));
    stage.settle();
    assert_eq!(stage.serves("m", None), "good 1");
    let missing = "version `9` of model `m` is not ready: label `stable` names it, and it is not in the folder";
    assert_eq!(stage.serves("m", Some("9")), missing);
}

#[test]
fn a_label_does_not_move_to_a_version_that_its_callers_could_not_call() {
    let settings = |stable| format!("versions = \"all\"\nlabels.stable = {stable}\n");
    let breaking = settings(1) + "breaking = true";
    let stage = Stage::with(&[ONE, ("m/2/model.onnx", "narrow 2"), ("m/model.toml", &breaking)]);
    stage.put("m/model.toml", &settings(2));
    stage.settle();
    assert_eq!(stage.serves("m", None), "good 1");
    assert_eq!(stage.serves("m", Some("stable")), "good 1");
    assert_eq!(stage.serves("m", Some("2")), "narrow 2");
    let index = stage.index();
    assert!(
        index[1].starts_with("m 2 READY it cannot take over from version 1, which serves"),
        "{index:?}"
    );
}

#[test]
fn a_stable_version_that_has_never_loaded_is_not_replaced_by_another() {
    let stage = Stage::with(&[
        ("m/1/model.onnx", "bad 1"),
        TWO,
        ("m/model.toml", "labels = { stable = 1, canary = 2 }"),
    ]);
    assert_eq!(stage.serves("m", None), "model `m` is not ready: no model in `bad 1`");
    assert_eq!(stage.serves("m", Some("canary")), "good 2");
}

#[test]
fn as_many_of_the_latest_as_are_asked_for_serve() {
    let stage = Stage::with(&[ONE, TWO, THREE, ("m/model.toml", "versions = { latest = 2 }")]);
    assert_eq!(stage.index(), ["m 2 READY", "m 3 READY"]);
    stage.put("m/4/model.onnx", "bad 4");
    stage.settle();
    assert_eq!(
        stage.index(),
        ["m 2 READY", "m 3 READY", "m 4 UNAVAILABLE no model in `bad 4`"]
    );
    stage.put("m/4/model.onnx", "good 4");
    stage.settle();
    assert_eq!(stage.index(), ["m 3 READY", "m 4 READY"]);
    stage.put("m/model.toml", "versions = [1, 7]");
    stage.settle();
    let missing = "`versions` names it, and it is not in the folder";
    let expected = [
        "m 1 READY",
        "m 3 READY",
        "m 4 READY",
        &format!("m 7 UNAVAILABLE {missing}"),
    ];
    assert_eq!(stage.index(), expected);
    assert_eq!(stage.serves("m", None), "good 4");
}

#[test]
fn settings_that_cannot_be_read_change_nothing_that_serves() {
    let stage = Stage::with(&[ONE]);
    stage.put("m/model.toml", "# settings\nthreds = 2");
    stage.put(TWO.0, TWO.1);
    stage.settle();
    assert_eq!(stage.serves("m", None), "good 1");
    let index = stage.index();
    assert!(
        index[0].starts_with("m 1 READY ROOT/m/model.toml:2: `threds`: unknown field `threds`"),
        "{index:?}"
    );
    stage.put("m/model.toml", "threads = 2");
    stage.settle();
    assert_eq!(stage.index(), ["m 2 READY"]);
    let fresh = Stage::with(&[ONE, ("m/model.toml", "threads = 0")]);
    let reason = "ROOT/m/model.toml:1: `threads`: it must be from 1 to 1024, not 0";
    assert_eq!(fresh.index(), [format!("m - UNAVAILABLE {reason}")]);
}

#[test]
fn a_model_whose_folder_goes_is_unloaded_once_that_has_settled() {
    let stage = Stage::with(&[ONE, ("n.onnx", "good n")]);
    stage.remove("m");
    stage.scan();
    assert_eq!(stage.serves("m", None), "good 1");
    stage.hand.advance(SETTLE);
    stage.scan();
    assert_eq!(stage.serves("m", None), "there is no model `m`");
    assert_eq!(stage.index(), ["n 1 READY"]);
    assert!(
        !stage.repository.state().records.contains_key("m"),
        "nothing of it is kept"
    );
    stage.put(ONE.0, "good again");
    stage.settle();
    assert_eq!(stage.serves("m", None), "good again");
}

#[test]
fn a_repository_that_is_deleted_goes_on_serving_and_comes_back_with_its_folder() {
    let stage = Stage::with(&[ONE]);
    let away = stage.folder.path().with_extension("away");
    std::fs::rename(stage.folder.path(), &away).expect("it is ours");
    stage.events();
    stage.settle();
    stage.settle();
    assert_eq!(stage.serves("m", None), "good 1");
    let reason = "the repository `ROOT` cannot be read: No such file or directory (os error 2)";
    assert_eq!(stage.index(), [format!("m 1 READY {reason}")]);
    assert_eq!(stage.events().len(), 1, "it is told once");
    let unreadable = message(stage.repository.load("m"));
    assert!(
        unreadable.ends_with("cannot be read: No such file or directory (os error 2)"),
        "{unreadable}"
    );
    std::fs::rename(&away, stage.folder.path()).expect("it is ours");
    stage.put(TWO.0, TWO.1);
    stage.settle();
    assert_eq!(stage.index(), ["m 2 READY"]);
}

#[test]
fn a_repository_that_is_emptied_goes_on_serving_until_its_models_are_back_or_unloaded() {
    let files = [
        ONE,
        ("n.onnx", "good n"),
        ("o/1/model.onnx", "good o"),
        ("p/1/model.onnx", "bad"),
    ];
    let stage = Stage::with(&files);
    stage.put("o/model.toml", "");
    for path in ["m", "n.onnx", "o/1", "p"] {
        stage.remove(path);
    }
    stage.events();
    stage.settle();
    stage.settle();
    let bare = "the repository `ROOT` holds no model any more, so that what serves goes on: unload what is to go";
    let ready = |name: &str, reason: &str| format!("{name} 1 READY {reason}").trim_end().to_owned();
    let failed = "p 1 UNAVAILABLE no model in `bad`".to_owned();
    assert_eq!(
        stage.index(),
        [ready("m", bare), ready("n", bare), ready("o", bare), failed]
    );
    assert_eq!(stage.events().len(), 1, "it is told once");
    for (name, content) in [("m", "good 1"), ("n", "good n"), ("o", "good o")] {
        assert_eq!(stage.serves(name, None), content);
    }
    stage.repository.unload("m").expect("it serves");
    assert_eq!(stage.serves("m", None), "there is no model `m`");
    // What comes back first takes nothing away from those that are still on their way.
    stage.put("q.onnx", "good q");
    stage.settle();
    stage.settle();
    let lost = "its files went away together with all others, so that it goes on serving: unload it if it is to go";
    assert_eq!(stage.index(), [ready("n", lost), ready("o", lost), ready("q", "")]);
    stage.put("n.onnx", "good again");
    stage.put("o/1/model.onnx", "good o");
    stage.settle();
    assert_eq!(stage.index(), [ready("n", ""), ready("o", ""), ready("q", "")]);
    assert_eq!(stage.serves("n", None), "good again");
    stage.remove("n.onnx");
    stage.settle();
    assert_eq!(stage.serves("n", None), "there is no model `n`");
}

#[test]
fn a_rollback_is_one_call_and_the_watcher_leaves_it() {
    let stage = Stage::with(&[ONE]);
    stage.put(TWO.0, TWO.1);
    stage.settle();
    assert_eq!(stage.repository.rollback("m").ok(), Some(1));
    assert_eq!(stage.serves("m", None), "good 1");
    stage.settle();
    stage.settle();
    assert_eq!(stage.index(), ["m 1 READY", "m 2 UNAVAILABLE it was rolled back"]);
    assert_eq!(
        stage.serves("m", Some("2")),
        "version `2` of model `m` is not ready: it was rolled back"
    );
    let error = message(stage.repository.rollback("m"));
    assert_eq!(
        error,
        "model `m` cannot be rolled back: no version that served before version 1 is in the folder: put one there and \
         load it, under a higher number"
    );
    stage.put(TWO.0, "good two");
    stage.settle();
    assert_eq!(stage.index(), ["m 2 READY"]);
    assert_eq!(stage.serves("m", None), "good two");
}

#[test]
fn other_changes_do_not_bring_back_what_was_rolled_back() {
    let stage = Stage::with(&[ONE]);
    stage.put(TWO.0, TWO.1);
    stage.settle();
    stage.repository.rollback("m").expect("there is one before");
    stage.put("m/model.toml", "threads = 1");
    stage.settle();
    assert_eq!(stage.index(), ["m 1 READY", "m 2 UNAVAILABLE it was rolled back"]);
    stage.put(THREE.0, THREE.1);
    stage.settle();
    assert_eq!(stage.serves("m", None), "good 3");
    assert_eq!(stage.repository.rollback("m").ok(), Some(1));
    stage.repository.load("m").expect("3 is good");
    assert_eq!(stage.serves("m", None), "good 3");
}

#[test]
fn a_rollback_takes_the_settings_that_are_there() {
    let stage = Stage::with(&[ONE]);
    stage.put(TWO.0, TWO.1);
    stage.settle();
    stage.put("m/model.toml", "threads = 0");
    stage.settle();
    let reason = "ROOT/m/model.toml:1: `threads`: it must be from 1 to 1024, not 0";
    assert_eq!(stage.index(), [format!("m 2 READY {reason}")]);
    stage.put("m/model.toml", "threads = 2");
    assert_eq!(stage.repository.rollback("m").ok(), Some(1));
    stage.settle();
    assert_eq!(stage.index(), ["m 1 READY", "m 2 UNAVAILABLE it was rolled back"]);
    let threads = |version| {
        let served = stage.repository.find("m", version).expect("it serves");
        served.settings.threads
    };
    assert_eq!(threads(None), Some(2));
    stage.repository.load("m").expect("2 is good");
    stage.put("m/model.toml", "threads = 3\nversions = \"all\"");
    stage.put(THREE.0, THREE.1);
    stage.settle();
    stage.put("m/model.toml", "threads = 4\nversions = \"all\"");
    assert_eq!(stage.repository.rollback("m").ok(), Some(2));
    assert_eq!([threads(Some("1")), threads(Some("2"))], [Some(3), Some(4)]);
    stage.settle();
    assert_eq!([threads(Some("1")), threads(Some("2"))], [Some(4), Some(4)]);
    stage.put("m/model.toml", "threads = -1");
    assert_eq!(stage.repository.rollback("m").ok(), Some(1));
    let reason = "ROOT/m/model.toml:1: `threads`: it must be from 1 to 1024, not -1";
    let withdrawn = |version| format!("m {version} UNAVAILABLE it was rolled back");
    assert_eq!(
        stage.index(),
        [format!("m 1 READY {reason}"), withdrawn(2), withdrawn(3)]
    );
}

#[test]
fn a_folder_that_can_be_read_again_is_known_to_be_by_whoever_reads_it() {
    let stage = Stage::with(&[ONE]);
    let away = stage.folder.path().with_extension("away");
    std::fs::rename(stage.folder.path(), &away).expect("it is ours");
    stage.scan();
    std::fs::rename(&away, stage.folder.path()).expect("it is ours");
    let reason = "the repository `ROOT` cannot be read: No such file or directory (os error 2)";
    assert_eq!(stage.index(), [format!("m 1 READY {reason}")]);
    stage.repository.load("m").expect("it is there");
    assert_eq!(stage.index(), ["m 1 READY"]);
}

#[test]
fn a_rollback_takes_labels_along_and_asks_for_no_compatibility() {
    let settings = |stable| format!("versions = \"all\"\nlabels.stable = {stable}");
    let stage = Stage::with(&[
        ("m/1/model.onnx", "narrow 1"),
        TWO,
        THREE,
        ("m/model.toml", &settings(1)),
    ]);
    stage.put("m/model.toml", &settings(2));
    stage.settle();
    assert_eq!(stage.serves("m", None), "good 2");
    stage.opened();
    assert_eq!(stage.repository.rollback("m").ok(), Some(1));
    assert_eq!(stage.opened(), [""; 0], "it serves already");
    assert_eq!(stage.serves("m", None), "narrow 1");
    assert_eq!(stage.serves("m", Some("stable")), "narrow 1");
    assert_eq!(stage.serves("m", Some("3")), "good 3");
    stage.put("m/model.toml", &(settings(2) + "\nthreads = 1"));
    stage.settle();
    assert_eq!(stage.serves("m", None), "narrow 1");
    let reason = "label `stable` names it, and it was rolled back: load the model to have it serve again";
    let expected = ["m 1 READY", &format!("m 2 UNAVAILABLE {reason}"), "m 3 READY"];
    assert_eq!(stage.index(), expected);
}

#[test]
fn a_rollback_to_a_version_that_does_not_load_changes_nothing() {
    let stage = Stage::with(&[ONE]);
    stage.put(TWO.0, TWO.1);
    stage.settle();
    stage.put(ONE.0, "bad 1");
    let error = message(stage.repository.rollback("m"));
    assert_eq!(error, "model `m` cannot be rolled back: version 1: no model in `bad 1`");
    assert_eq!(stage.serves("m", None), "good 2");
    stage.put(ONE.0, "good one");
    assert_eq!(stage.repository.rollback("m").ok(), Some(1));
    assert_eq!(message(stage.repository.rollback("nope")), "there is no model `nope`");
}

#[test]
fn what_is_unloaded_stays_so_until_its_files_change() {
    let stage = Stage::with(&[ONE]);
    stage.repository.unload("m").expect("it serves");
    stage.settle();
    assert_eq!(stage.index(), ["m - UNAVAILABLE it was unloaded"]);
    assert_eq!(stage.serves("m", None), "model `m` is not ready: it was unloaded");
    assert!(stage.repository.is_ready());
    stage.repository.load("m").expect("it is there");
    assert_eq!(stage.serves("m", None), "good 1");
    stage.repository.unload("m").expect("it serves");
    stage.put(TWO.0, TWO.1);
    stage.settle();
    assert_eq!(stage.serves("m", None), "good 2");
    assert_eq!(message(stage.repository.unload("nope")), "there is no model `nope`");
}

#[test]
fn a_rollback_of_what_was_unloaded_goes_back_to_the_version_before() {
    let stage = Stage::with(&[ONE]);
    stage.repository.unload("m").expect("it serves");
    let error = message(stage.repository.rollback("m"));
    assert_eq!(
        error,
        "model `m` cannot be rolled back: no version that served before version 1 is in the folder: put one there and \
         load it, under a higher number"
    );
    stage.put(TWO.0, TWO.1);
    stage.repository.load("m").expect("2 is good");
    for _ in 0..2 {
        stage.repository.unload("m").expect("it is there");
    }
    assert_eq!(stage.repository.rollback("m").ok(), Some(1));
    stage.settle();
    assert_eq!(stage.index(), ["m 1 READY", "m 2 UNAVAILABLE it was rolled back"]);
    assert_eq!(stage.serves("m", None), "good 1");
    stage.put(TWO.0, "bad 2");
    assert!(stage.repository.load("m").is_err());
    assert_eq!(stage.serves("m", None), "good 1");
    let never = Stage::with(&[("m/1/model.onnx", "bad")]);
    let error = message(never.repository.rollback("m"));
    assert_eq!(
        error,
        "model `m` cannot be rolled back: no version of it has served by default: load it"
    );
}

#[test]
fn a_rollback_of_what_was_unloaded_brings_the_other_versions_and_the_labels_along() {
    let settings = |stable| format!("versions = \"all\"\nlabels = {{ stable = {stable}, old = 1 }}");
    let stage = Stage::with(&[ONE, TWO, ("m/model.toml", &settings(2))]);
    stage.put(THREE.0, THREE.1);
    stage.put("m/model.toml", &settings(3));
    stage.settle();
    stage.repository.unload("m").expect("it serves");
    assert_eq!(stage.repository.rollback("m").ok(), Some(2));
    let reason = "label `stable` names it, and it was rolled back: load the model to have it serve again";
    let index = ["m 1 READY", "m 2 READY", &format!("m 3 UNAVAILABLE {reason}")];
    assert_eq!(stage.index(), index);
    for (asked, content) in [(None, "good 2"), (Some("stable"), "good 2"), (Some("old"), "good 1")] {
        assert_eq!(stage.serves("m", asked), content);
    }
    stage.settle();
    assert_eq!(stage.index(), index);
}

#[test]
fn to_load_a_model_does_not_wait_and_says_what_fails() {
    let stage = Stage::with(&[]);
    stage.put(ONE.0, ONE.1);
    stage.repository.load("m").expect("it is good");
    assert_eq!(stage.serves("m", None), "good 1");
    stage.opened();
    stage.repository.load("m").expect("it serves");
    assert_eq!(stage.opened(), [""; 0]);
    stage.put(TWO.0, "bad 2");
    let error = message(stage.repository.load("m"));
    assert_eq!(error, "model `m` could not be loaded: version 2: no model in `bad 2`");
    assert_eq!(stage.serves("m", None), "good 1");
    for name in ["nope", "../m", "", ".", "m/1"] {
        assert_eq!(
            message(stage.repository.load(name)),
            format!("there is no model `{name}`")
        );
    }
    stage.remove("m");
    assert_eq!(message(stage.repository.load("m")), "there is no model `m`");
    assert_eq!(stage.serves("m", None), "good 1");
}

#[test]
fn who_looks_around_learns_what_is_refused_and_loads_nothing() {
    let stage = Stage::with(&[ONE]);
    stage.put("a b/model.onnx", "good");
    stage.put("n/model.onnx", "good");
    assert_eq!(stage.index(), ["m 1 READY"]);
    stage.repository.look_around();
    let refused = "a b - UNAVAILABLE ROOT/a b: `a b` can be no model's name, which must be of at most 200 letters, \
                   digits, `_`, `-` and `.`, and begin with no `.`: rename it";
    assert_eq!(stage.index(), [refused, "m 1 READY"]);
    assert_eq!(stage.opened(), ["good 1"]);
    stage.remove("a b");
    stage.remove("n");
    // Somebody else is at it, and may never come back.
    let held = stage.repository.looking.lock().expect("no panic");
    stage.repository.look_around();
    assert_eq!(stage.index().len(), 2);
    drop(held);
    stage.repository.look_around();
    assert_eq!(stage.index(), ["m 1 READY"]);
    stage.remove("m");
    stage.repository.look_around();
    let lost =
        "m 1 READY the repository `ROOT` holds no model any more, so that what serves goes on: unload what is to go";
    assert_eq!(stage.index(), [lost]);
}

#[test]
fn how_long_one_path_is_being_looked_at_is_known() {
    let stage = Stage::with(&[ONE]);
    assert_eq!(stage.repository.looked_at(), None);
    let path = stage.folder.path().join("m");
    *stage.repository.looked_at.lock().expect("no panic") = Some((path.clone(), stage.repository.clock.now()));
    stage.hand.advance(Duration::from_secs(3));
    assert_eq!(stage.repository.looked_at(), Some((path, Duration::from_secs(3))));
    stage.scan();
    assert_eq!(stage.repository.looked_at(), None);
}

#[test]
fn a_closed_repository_serves_and_loads_nothing() {
    let stage = Stage::with(&[ONE]);
    let held = stage.repository.find("m", None).expect("it serves");
    stage.repository.close();
    assert!(!stage.repository.is_ready());
    assert_eq!(
        stage.serves("m", None),
        "model `m` is not ready: the repository is closed"
    );
    assert_eq!(held.model.name(), "good 1");
    assert_eq!(stage.index(), ["m 1 UNLOADING"]);
    drop(held);
    assert_eq!(stage.index(), ["m - UNAVAILABLE the repository is closed"]);
    assert_eq!(message(stage.repository.load("m")), "the repository is closed");
    stage.put(TWO.0, TWO.1);
    stage.settle();
    assert_eq!(stage.opened(), ["good 1"]);
}

#[test]
fn what_was_being_loaded_when_the_repository_closed_does_not_serve() {
    let stage = Stage::with(&[ONE]);
    let repository = stage.repository.clone();
    stage.script.meanwhile(move |_| repository.close());
    stage.put(TWO.0, TWO.1);
    stage.settle();
    assert_eq!(stage.opened(), ["good 1", "good 2"]);
    assert_eq!(
        stage.serves("m", None),
        "model `m` is not ready: the repository is closed"
    );
    let error = stage.repository.load_all(&|_| ()).expect_err("it is closed");
    assert_eq!(error.message(), "the repository is closed");
    stage.script.meanwhile(|_| ());
}

#[test]
fn requests_and_the_index_do_not_wait_for_a_load() {
    let stage = Stage::with(&[ONE]);
    stage.put(TWO.0, TWO.1);
    let (has_begun, begun) = channel();
    let (let_go, go) = channel::<()>();
    let go = std::sync::Mutex::new(go);
    stage.script.meanwhile(move |_| {
        has_begun.send(()).expect("somebody listens");
        let _ = go.lock().expect("no panic").recv();
    });
    thread::scope(|scope| {
        let loading = scope.spawn(|| stage.repository.load("m"));
        begun.recv().expect("it loads");
        assert_eq!(stage.serves("m", None), "good 1");
        assert_eq!(stage.index(), ["m 1 READY", "m 2 LOADING"]);
        let not_ready = "version `2` of model `m` is not ready: it is being loaded";
        assert_eq!(stage.serves("m", Some("2")), not_ready);
        stage.hand.advance(Duration::from_secs(7));
        let since = "m 2 LOADING it has been loading for 7 s";
        assert_eq!(stage.index(), ["m 1 READY", since]);
        // Those who come later do not wait for what may never end.
        stage.hand.advance(Duration::from_secs(23));
        let refused = "model `m` has been loading for 30 s, and nothing else can be done with it before that is over: \
                       restart the server if it never is";
        assert_eq!(message(stage.repository.load("m")), refused);
        assert_eq!(message(stage.repository.unload("m")), refused);
        assert_eq!(message(stage.repository.rollback("m")), refused);
        stage.put("n.onnx", "bad n");
        // The watcher passes by what somebody else is loading.
        stage.put(THREE.0, THREE.1);
        stage.scan();
        drop(let_go);
        loading.join().expect("no panic").expect("2 is good");
    });
    assert_eq!(stage.serves("m", None), "good 2");
}

#[test]
fn settings_that_cannot_be_read_take_the_reasons_of_the_earlier_ones_with_them() {
    for earlier in ["versions = [1, 2, 7]", "versions = [1, 2]\nlabels = { stable = 9 }"] {
        let stage = Stage::with(&[ONE, ("m/2/model.onnx", "bad 2"), ("m/model.toml", earlier)]);
        stage.put("m/model.toml", "versions = 0");
        let reason = message(stage.repository.load("m"));
        let prefix = "model `m` could not be loaded: ";
        let trouble = reason.strip_prefix(prefix).expect("it names the model").to_owned();
        assert!(
            trouble.contains("model.toml") && !trouble.contains("; version "),
            "{trouble}"
        );
        let trouble = trouble.replace(&stage.folder.path().display().to_string(), "ROOT");
        assert_eq!(
            stage.index(),
            [format!("m 1 READY {trouble}"), format!("m 2 UNAVAILABLE {trouble}")]
        );
        assert!(
            stage
                .serves("m", Some("2"))
                .starts_with("version `2` of model `m` is not ready: ")
        );
        stage.put("m/model.toml", "versions = [1]");
        stage.repository.load("m").expect("1 is good");
        assert_eq!(stage.index(), ["m 1 READY"]);
    }
}

#[test]
fn what_waits_to_be_loaded_is_known() {
    let stage = Stage::over(&[ONE, ("n.onnx", "good n")]);
    let repository = stage.repository.clone();
    let (sender, heard) = channel();
    stage.script.meanwhile(move |files| {
        let known = repository.find("n", None).err().map(|error| error.to_string());
        sender
            .send((files.name.clone(), repository.is_ready(), known))
            .expect("somebody listens");
    });
    stage.load_all();
    stage.script.meanwhile(|_| ());
    let heard: Vec<_> = heard.try_iter().collect();
    let waits = Some("model `n` is not ready: it waits to be loaded".to_owned());
    let loads = Some("model `n` is not ready: it is being loaded".to_owned());
    assert_eq!(heard, [("m".to_owned(), false, waits), ("n".to_owned(), false, loads)]);
    assert_eq!(stage.index(), ["m 1 READY", "n 1 READY"]);
}

#[test]
fn one_model_is_loaded_by_one_at_a_time() {
    let stage = Stage::with(&[]);
    stage.put(ONE.0, "bad 1");
    let inside = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (counted, highest) = (inside.clone(), most.clone());
    stage.script.meanwhile(move |_| {
        highest.fetch_max(1 + counted.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
        thread::yield_now();
        counted.fetch_sub(1, Ordering::SeqCst);
    });
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..25).for_each(|_| drop(stage.repository.load("m"))));
        }
    });
    assert_eq!(stage.opened().len(), 100);
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

#[test]
fn requests_during_reloads_never_fail_and_never_go_back() {
    const RELOADS: u64 = 200;
    let stage = Stage::with(&[("m/1/model.onnx", "good 0")]);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut last = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let served = stage.repository.find("m", None).expect("there is always one");
                    let number = served
                        .model
                        .name()
                        .strip_prefix("good ")
                        .and_then(|number| number.parse().ok());
                    let number: u64 = number.expect("no other file loads");
                    assert!(number >= last, "{number} after {last}");
                    last = number;
                }
            });
        }
        for reload in 1..=RELOADS {
            let version = 1 + reload / 10;
            let content = if reload % 7 == 0 { "bad" } else { "good" };
            stage.put(&format!("m/{version}/model.onnx"), &format!("{content} {reload}"));
            stage.settle();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(stage.serves("m", None), format!("good {RELOADS}"));
}
