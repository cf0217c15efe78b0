use std::cell::RefCell;
use std::fs::File;

use super::*;
use crate::repository::scripted::Folder;

/// What is found, a line for each model, version and thing refused.
fn found(folder: &Folder) -> Vec<String> {
    let root = folder.path().display().to_string();
    let found = scan(folder.path(), &|_| ()).expect("it is there");
    let mut lines = Vec::new();
    for (name, model) in &found.models {
        let settings = if model.settings.is_some() { " with settings" } else { "" };
        lines.push(format!(
            "{name}{settings}{}",
            model.unreadable.as_deref().unwrap_or_default()
        ));
        for (version, files) in &model.versions {
            let files = files.as_ref().map(|files| {
                let names = files.stamp.keys().map(|path| path.display().to_string());
                names.collect::<Vec<_>>().join(" ")
            });
            lines.push(format!("{name} {version}: {}", files.unwrap_or_else(String::clone)));
        }
    }
    let refused = found.refused.iter();
    lines.extend(refused.map(|refused| format!("{}: {}", refused.path.display(), refused.reason)));
    lines.iter().map(|line| line.replace(&root, "ROOT")).collect()
}

fn of(files: &[&str]) -> Folder {
    let folder = Folder::new();
    for file in files {
        folder.put(file, "");
    }
    folder
}

#[test]
fn whoever_waits_for_a_look_knows_what_it_is_at() {
    let folder = of(&["a/1/model.onnx", "b.onnx"]);
    let seen = RefCell::new(Vec::new());
    scan(folder.path(), &|path| seen.borrow_mut().push(path.to_owned())).expect("it is there");
    let mut seen = seen.into_inner();
    assert_eq!(seen.remove(0), folder.path());
    // Each is touched twice: to see whether it is a folder, in any order, and to see what is in it.
    let (a, b) = (folder.path().join("a"), folder.path().join("b.onnx"));
    assert_eq!(seen[2..], [a.clone(), b.clone()]);
    seen[..2].sort();
    assert_eq!(seen[..2], [a, b]);
}

#[test]
fn names_are_what_is_safe_in_a_path_and_a_url() {
    for name in ["a", "A-b_c.d", "1", "a..b", &"a".repeat(200)] {
        assert!(is_name(name), "{name}");
    }
    for name in [
        "",
        ".",
        "..",
        ".a",
        "a/b",
        "a\\b",
        "a b",
        "a%b",
        "ä",
        "a\0",
        "a\n",
        &"a".repeat(201),
    ] {
        assert!(!is_name(name), "{name}");
    }
}

#[test]
fn versions_are_positive_numbers_without_leading_zeros() {
    assert_eq!(version_of("1"), Some(1));
    assert_eq!(version_of("9223372036854775807"), Some(u64::MAX / 2));
    for text in [
        "",
        "0",
        "01",
        "+1",
        "-1",
        "1.0",
        "1 ",
        "one",
        "٣",
        "9223372036854775808",
    ] {
        assert_eq!(version_of(text), None, "{text}");
    }
}

#[test]
fn models_lie_in_files_in_folders_and_in_folders_of_versions() {
    let folder = of(&[
        "single.onnx",
        "single.onnx.data",
        "flat/model.onnx",
        "flat/weights.bin",
        "flat/model.toml",
        "deep/1/model.onnx",
        "deep/12/model.onnx",
        "deep/12/data/w0",
        "deep/notes.txt",
        "beside.onnx",
        "beside/model.toml",
        "README.md",
    ]);
    assert_eq!(
        found(&folder),
        [
            "beside with settings",
            "beside 1: beside.onnx",
            "deep",
            "deep 1: model.onnx",
            "deep 12: data/w0 model.onnx",
            "flat with settings",
            "flat 1: model.onnx weights.bin",
            "single",
            "single 1: single.onnx single.onnx.data",
        ]
    );
}

#[test]
fn folders_with_numbers_for_names_are_models_like_others() {
    let folder = of(&["5/model.onnx", "5/w", "5/2/model.onnx", "7.onnx"]);
    let inner = folder.path().join("5");
    assert_eq!(
        found(&folder),
        ["5", "5 1: model.onnx w", "5 2: model.onnx", "7", "7 1: 7.onnx"]
    );
    assert_eq!(
        scan(&inner, &|_| ()).expect("it is there").models["model"]
            .versions
            .len(),
        1
    );
}

#[test]
fn what_is_refused_is_told() {
    let folder = of(&[
        "a b/1/model.onnx",
        "c d.onnx",
        "both/model.onnx",
        "both/1/model.onnx",
        "both.onnx",
        "zero/01/model.onnx",
        "zero/0/x",
        "zero/v2/model.onnx",
        "zero/assets/x",
        "half/3/weights.bin",
        "nothing/x",
    ]);
    let no_version =
        |name| format!("`{name}` is no version, which must be a positive number without leading zeros: rename it");
    assert_eq!(
        found(&folder),
        [
            "both".to_owned(),
            "both 1: model.onnx".to_owned(),
            "half".to_owned(),
            "half 3: ROOT/half/3/model.onnx: it cannot be read: No such file or directory (os error 2)".to_owned(),
            "zero".to_owned(),
            "ROOT/a b: `a b` can be no model's name, which must be of at most 200 letters, digits, `_`, `-` and `.`, and \
             begin with no `.`: rename it"
                .to_owned(),
            "ROOT/nothing: it holds no model: put a `model.onnx` or a version such as `1/model.onnx` into it".to_owned(),
            "ROOT/both.onnx: the folder `both` is the same model, and counts: rename one of them, or take it away"
                .to_owned(),
            "ROOT/c d.onnx: `c d` can be no model's name, which must be of at most 200 letters, digits, `_`, `-` and \
             `.`, and begin with no `.`: rename it"
                .to_owned(),
            "ROOT/both/model.onnx: the folder `1` is the same version, and counts: take one of them away, or put the \
             file into a folder of another number"
                .to_owned(),
            format!("ROOT/zero/0: {}", no_version("0")),
            format!("ROOT/zero/01: {}", no_version("01")),
            format!("ROOT/zero/v2: {}", no_version("v2")),
        ]
    );
}

#[test]
fn hidden_and_temporary_entries_are_not_there() {
    let folder = of(&[
        ".a.onnx",
        "a.onnx.tmp",
        "a.onnx.part",
        "a.onnx~",
        ".git/1/model.onnx",
        "b.tmp/1/model.onnx",
    ]);
    assert_eq!(found(&folder), [""; 0]);
}

#[test]
fn one_model_is_found_as_all_are() {
    let folder = of(&["a/1/model.onnx", "b.onnx", "b.onnx.data"]);
    let all = scan(folder.path(), &|_| ()).expect("it is there").models;
    for name in ["a", "b"] {
        let one = scan_model(folder.path(), name).expect("it is there");
        assert_eq!(one.as_ref(), all.get(name));
    }
    for name in ["c", "../a", "", "a/1"] {
        assert_eq!(scan_model(folder.path(), name).expect("it is there"), None);
    }
}

#[test]
fn a_file_that_was_replaced_is_another_one() {
    let folder = of(&["a/1/model.onnx", "a/1/w"]);
    let model = scan_model(folder.path(), "a")
        .expect("it is there")
        .expect("there is one");
    let version = model.versions[&1].clone().expect("it may serve");
    assert_eq!(version.is_unchanged(folder.path()), Ok(true));
    folder.put("a/1/w", "");
    assert_eq!(version.is_unchanged(folder.path()), Ok(false));
    folder.remove("a/1/model.onnx");
    assert!(version.is_unchanged(folder.path()).is_err());
}

#[test]
fn a_version_of_too_many_files_is_refused() {
    let folder = of(&["a/1/model.onnx"]);
    for file in 0..MOST_FILES {
        File::create(folder.path().join(format!("a/1/{file}"))).expect("it is writable");
    }
    assert_eq!(found(&folder), ["a", "a 1: ROOT/a/1: it holds more than 10000 files"]);
}

#[cfg(unix)]
mod links {
    use std::os::unix::fs::symlink;

    use super::*;

    fn link(folder: &Folder, target: &Path, name: &str) {
        symlink(target, folder.path().join(name)).expect("it is writable");
    }

    #[test]
    fn links_within_the_repository_are_followed() {
        let folder = of(&[".now/a/1/model.onnx", ".blobs/b"]);
        link(&folder, Path::new(".now/a"), "a");
        link(&folder, Path::new(".blobs/b"), "b.onnx");
        assert_eq!(found(&folder), ["a", "a 1: model.onnx", "b", "b 1: b.onnx"]);
    }

    #[test]
    fn a_link_that_points_elsewhere_than_before_is_a_change() {
        let folder = of(&[".one/model.onnx", ".two/model.onnx", "a/model.toml"]);
        link(&folder, Path::new("../.one"), "a/1");
        let model = scan_model(folder.path(), "a")
            .expect("it is there")
            .expect("there is one");
        let version = model.versions[&1].clone().expect("it may serve");
        assert_eq!(version.is_unchanged(folder.path()), Ok(true));
        fs::remove_file(folder.path().join("a/1")).expect("it is there");
        link(&folder, Path::new("../.two"), "a/1");
        assert_eq!(version.is_unchanged(folder.path()), Ok(false));
    }

    #[test]
    fn links_that_leave_the_repository_are_refused() {
        let outside = of(&["1/model.onnx", "model.onnx", "model.toml"]);
        let folder = of(&[
            "file/1/x",
            "weights/1/model.onnx",
            "settings/1/model.onnx",
            "version/2/model.onnx",
        ]);
        link(&folder, outside.path(), "folder");
        link(&folder, &outside.path().join("1"), "version/1");
        link(&folder, &outside.path().join("model.onnx"), "file/1/model.onnx");
        link(&folder, &outside.path().join("model.onnx"), "single.onnx");
        link(&folder, outside.path(), "weights/1/data");
        link(&folder, &outside.path().join("model.toml"), "settings/model.toml");
        link(&folder, Path::new("nowhere"), "dangling");
        let leads = OUTSIDE;
        assert_eq!(
            found(&folder),
            [
                "danglingROOT/dangling: it cannot be read: No such file or directory (os error 2)".to_owned(),
                "file".to_owned(),
                format!("file 1: ROOT/file/1/model.onnx: {leads}"),
                format!("folderROOT/folder: {leads}"),
                format!("settingsROOT/settings/model.toml: {leads}"),
                "settings 1: model.onnx".to_owned(),
                "single".to_owned(),
                format!("single 1: ROOT/single.onnx: {leads}"),
                "version".to_owned(),
                format!("version 1: ROOT/version/1/model.onnx: {leads}"),
                "version 2: model.onnx".to_owned(),
                "weights".to_owned(),
                format!("weights 1: ROOT/weights/1/data: {leads}"),
            ]
        );
    }

    #[test]
    fn links_in_a_circle_come_to_an_end() {
        let folder = of(&["a/1/model.onnx"]);
        for name in ["x", "y", "z"] {
            link(&folder, Path::new("."), &format!("a/1/{name}"));
        }
        let found = found(&folder);
        assert!(found[1].starts_with("a 1: ROOT/a/1"), "{found:?}");
        assert!(
            found[1].contains("it holds more than") || found[1].contains("deeper than"),
            "{found:?}"
        );
    }
}
