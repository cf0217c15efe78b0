//! What lies in a folder of models, and what in it is refused; nothing is loaded and nothing is written.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::settings;

const MODEL: &str = "model.onnx";
/// Files of one version, among them those that hold its weights.
const MOST_FILES: usize = 10_000;
/// Folders within the folder of a version.
const DEEPEST: usize = 8;
const LONGEST_NAME: usize = 200;

/// What tells a file that was changed or replaced from one that was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStamp {
    /// Its bytes.
    pub len: u64,
    /// When it was last written.
    pub modified: Option<SystemTime>,
    /// Which file it is; 0 where the system does not say.
    pub inode: u64,
}

/// The files of a version, by their paths from its folder.
pub type Stamp = BTreeMap<PathBuf, FileStamp>;

/// Which files belong to a version, besides its ONNX file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Those beside it whose names begin with its own: it lies in the repository itself.
    Single,
    /// All in the folder of the model but settings and versions.
    Model,
    /// All in the folder of the version.
    Version,
}

/// A version in the folder of its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundVersion {
    /// The ONNX file.
    pub path: PathBuf,
    /// Which files belong to it.
    pub extent: Extent,
    /// These files.
    pub stamp: Stamp,
}

impl FoundVersion {
    /// Whether its files are still what they were; an error says why they cannot be looked at.
    pub fn is_unchanged(&self, root: &Path) -> Result<bool, String> {
        let real_root = fs::canonicalize(root).map_err(|error| unreadable(root, &error))?;
        Ok(stamp(&real_root, &self.path, self.extent)? == self.stamp)
    }
}

/// A model as it lies in the folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundModel {
    /// The versions, or why they may not be served.
    pub versions: BTreeMap<u64, Result<FoundVersion, String>>,
    /// Its settings, if it has any.
    pub settings: Option<(PathBuf, FileStamp)>,
    /// Why the folder of the model could not be read.
    pub unreadable: Option<String>,
    /// What in it is refused and concerns no version.
    pub refused: Vec<Refused>,
}

impl FoundModel {
    /// Whether it has no version, as far as can be seen.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.versions.is_empty() && self.unreadable.is_none()
    }
}

/// A file or folder that is no model, or none that may be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub path: PathBuf,
    /// Why, and what helps.
    pub reason: String,
}

impl Refused {
    /// What it is called in the repository, and within the folder of its model if it lies in one.
    #[must_use]
    pub fn names(&self, root: &Path) -> (String, Option<String>) {
        let mut names = self.path.strip_prefix(root).unwrap_or(&self.path).components();
        let mut next = || Some(names.next()?.as_os_str().to_string_lossy().into_owned());
        (next().unwrap_or_default(), next())
    }
}

/// All that lies in a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The models by name.
    pub models: BTreeMap<String, FoundModel>,
    /// The rest that somebody may take for a model, what is refused within models included.
    pub refused: Vec<Refused>,
}

impl Found {
    /// Whether there is nothing that could be served, or might turn out to be if it could be read.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.models.values().all(FoundModel::is_bare)
    }
}

/// Whether a text can be the name of a model or a label: safe in a path and in a URL.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=LONGEST_NAME).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(is_safe)
}

/// The version that a text stands for: a positive number without leading zeros, no larger than TOML can write.
#[must_use]
pub fn version_of(text: &str) -> Option<u64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    let version: i64 = text.parse().ok().filter(|_| is_number)?;
    u64::try_from(version).ok().filter(|&version| version > 0)
}

/// Looks through a folder, and says before whatever of it is touched next, since a file system may never answer; an
/// error where the folder itself cannot be read.
pub fn scan(root: &Path, at: &dyn Fn(&Path)) -> io::Result<Found> {
    at(root);
    let real_root = fs::canonicalize(root)?;
    let mut found = Found::default();
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(root)? {
        names.push(entry?.path());
    }
    // Folders come first, so that a file of the same name finds the place taken, whatever order the system has.
    names.sort_by_cached_key(|path| {
        at(path);
        (!path.is_dir(), path.clone())
    });
    for path in names {
        at(&path);
        look_at(&real_root, path, &mut found);
    }
    for model in found.models.values() {
        found.refused.extend(model.refused.iter().cloned());
    }
    Ok(found)
}

/// Looks at one model; `None` where there is none of this name.
pub fn scan_model(root: &Path, name: &str) -> io::Result<Option<FoundModel>> {
    if !is_name(name) {
        return Ok(None);
    }
    let real_root = fs::canonicalize(root)?;
    fs::read_dir(root)?;
    let mut found = Found::default();
    for path in [root.join(name), root.join(format!("{name}.onnx"))] {
        if fs::symlink_metadata(&path).is_ok() {
            look_at(&real_root, path, &mut found);
        }
    }
    Ok(found.models.remove(name))
}

/// What a file is like now.
pub fn file_stamp(path: &Path) -> io::Result<FileStamp> {
    fs::metadata(path).map(|metadata| stamp_from(&metadata))
}

fn look_at(real_root: &Path, path: PathBuf, found: &mut Found) {
    let name = match path.file_name().map(OsStr::to_str) {
        Some(Some(name)) if is_ignored(name) => return,
        Some(Some(name)) => name.to_owned(),
        _ => return found.refuse(path, "its name is not UTF-8: rename it"),
    };
    // A link that leads nowhere is there, too, and has no metadata.
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        // It has gone since the folder was listed.
        Err(_) if fs::symlink_metadata(&path).is_err() => return,
        Err(error) => return found.trouble(path, &name, format!("it cannot be read: {error}")),
    };
    if !metadata.is_dir() {
        let Some(name) = name.strip_suffix(".onnx") else {
            return;
        };
        return single_file(real_root, path.clone(), name, found);
    }
    if !is_name(&name) {
        return found.refuse(path, no_name(&name));
    }
    if !is_inside(real_root, &path) {
        return found.trouble(path, &name, OUTSIDE.to_owned());
    }
    match folder(real_root, &path) {
        Ok(model) if model == FoundModel::default() => {
            found.refuse(
                path,
                "it holds no model: put a `model.onnx` or a version such as `1/model.onnx` into it",
            );
        }
        Ok(model) => {
            found.models.insert(name, model);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => found.trouble(path, &name, format!("it cannot be read: {error}")),
    }
}

fn no_name(name: &str) -> String {
    format!(
        "`{name}` can be no model's name, which must be of at most {LONGEST_NAME} letters, digits, `_`, `-` and `.`, and \
         begin with no `.`: rename it"
    )
}

impl Found {
    fn refuse(&mut self, path: PathBuf, reason: impl Into<String>) {
        let reason = reason.into();
        self.refused.push(Refused { path, reason });
    }

    /// Takes note of an entry that may well be a model: what serves under this name goes on.
    fn trouble(&mut self, path: PathBuf, name: &str, reason: String) {
        let name = name.strip_suffix(".onnx").unwrap_or(name);
        if !is_name(name) || self.models.contains_key(name) {
            return self.refuse(path, reason);
        }
        let model = FoundModel {
            unreadable: Some(format!("{}: {reason}", path.display())),
            ..FoundModel::default()
        };
        self.models.insert(name.to_owned(), model);
    }
}

fn single_file(real_root: &Path, path: PathBuf, name: &str, found: &mut Found) {
    if !is_name(name) {
        return found.refuse(path, no_name(name));
    }
    // A folder may hold the settings of a model that lies beside it.
    let has_versions = |model: &FoundModel| !model.versions.is_empty() || model.unreadable.is_some();
    if found.models.get(name).is_some_and(has_versions) {
        let reason = format!("the folder `{name}` is the same model, and counts: rename one of them, or take it away");
        return found.refuse(path, reason);
    }
    let version = version_at(real_root, path, Extent::Single);
    found
        .models
        .entry(name.to_owned())
        .or_default()
        .versions
        .insert(1, version);
}

fn folder(real_root: &Path, path: &Path) -> io::Result<FoundModel> {
    let mut model = FoundModel::default();
    let mut has_single_file = false;
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let name = match path.file_name().map(OsStr::to_str) {
            Some(Some(name)) if is_ignored(name) => continue,
            Some(Some(name)) => name.to_owned(),
            _ => continue,
        };
        if name == MODEL {
            has_single_file = true;
        } else if name == settings::FILE_NAME {
            match inside(real_root, &path).and_then(|()| file_stamp(&path).map_err(|error| unreadable(&path, &error))) {
                Ok(stamp) => model.settings = Some((path, stamp)),
                Err(reason) => model.unreadable = Some(reason),
            }
        } else if let Some(version) = version_of(&name) {
            if let Some(found) = version_folder(real_root, &path) {
                model.versions.insert(version, found);
            }
        } else if path.is_dir() && (is_numeric(&name) || path.join(MODEL).exists()) {
            let reason =
                format!("`{name}` is no version, which must be a positive number without leading zeros: rename it");
            model.refused.push(Refused { path, reason });
        }
    }
    if has_single_file {
        single_version(real_root, path.join(MODEL), &mut model);
    }
    model.refused.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(model)
}

fn single_version(real_root: &Path, path: PathBuf, model: &mut FoundModel) {
    if model.versions.contains_key(&1) {
        let reason = "the folder `1` is the same version, and counts: take one of them away, or put the file into a \
                      folder of another number"
            .to_owned();
        model.refused.push(Refused { path, reason });
        return;
    }
    model.versions.insert(1, version_at(real_root, path, Extent::Model));
}

fn version_at(real_root: &Path, path: PathBuf, extent: Extent) -> Result<FoundVersion, String> {
    let stamp = stamp(real_root, &path, extent)?;
    Ok(FoundVersion { path, extent, stamp })
}

/// What the folder of a version holds; `None` where it is a file, or has just gone.
fn version_folder(real_root: &Path, path: &Path) -> Option<Result<FoundVersion, String>> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(_) if fs::symlink_metadata(path).is_err() => return None,
        Err(error) => return Some(Err(unreadable(path, &error))),
    };
    if !metadata.is_dir() {
        return None;
    }
    Some(version_at(real_root, path.join(MODEL), Extent::Version))
}

fn stamp(real_root: &Path, path: &Path, extent: Extent) -> Result<Stamp, String> {
    let (Some(folder), Some(model)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
        return Err(format!("{}: it is no file", path.display()));
    };
    inside(real_root, path)?;
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !metadata.is_file() {
        return Err(format!("{}: it is no file", path.display()));
    }
    let mut gathering = Gathering {
        real_root,
        folder,
        files: Stamp::new(),
        seen: 0,
    };
    gathering.gather(Path::new(""), &|name| match extent {
        Extent::Single => name.starts_with(model),
        Extent::Model => name != settings::FILE_NAME && !is_numeric(name),
        Extent::Version => true,
    })?;
    Ok(gathering.files)
}

/// The files of one version, as far as they have been seen.
struct Gathering<'a> {
    real_root: &'a Path,
    folder: &'a Path,
    files: Stamp,
    /// Folders count as well: links may make a few of them look like many.
    seen: usize,
}

impl Gathering<'_> {
    fn gather(&mut self, below: &Path, is_of_version: &dyn Fn(&str) -> bool) -> Result<(), String> {
        let here = self.folder.join(below);
        for entry in fs::read_dir(&here).map_err(|error| unreadable(&here, &error))? {
            let path = entry.map_err(|error| unreadable(&here, &error))?.path();
            let Some(name) = path.file_name() else { continue };
            // Names that are not UTF-8 cannot stand in a model, which refers to its files in UTF-8.
            if name
                .to_str()
                .is_none_or(|name| is_ignored(name) || !is_of_version(name))
            {
                continue;
            }
            let within = below.join(name);
            inside(self.real_root, &path)?;
            let metadata = fs::metadata(&path).map_err(|error| unreadable(&path, &error))?;
            self.seen += 1;
            if self.seen > MOST_FILES {
                let folder = self.folder.display();
                return Err(format!("{folder}: it holds more than {MOST_FILES} files"));
            }
            if !metadata.is_dir() {
                self.files.insert(within, stamp_from(&metadata));
            } else if within.components().count() > DEEPEST {
                return Err(format!("{}: folders lie deeper than {DEEPEST}", path.display()));
            } else {
                self.gather(&within, &|_| true)?;
            }
        }
        Ok(())
    }
}

const OUTSIDE: &str = "it leads out of the repository: put what it points to into the repository";

/// Follows all links.
fn is_inside(real_root: &Path, path: &Path) -> bool {
    fs::canonicalize(path).is_ok_and(|real| real.starts_with(real_root))
}

fn inside(real_root: &Path, path: &Path) -> Result<(), String> {
    let real = fs::canonicalize(path).map_err(|error| unreadable(path, &error))?;
    if real.starts_with(real_root) {
        return Ok(());
    }
    Err(format!("{}: {OUTSIDE}", path.display()))
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("{}: it cannot be read: {error}", path.display())
}

/// Whether a name is hidden, or that of a file which somebody is writing.
fn is_ignored(name: &str) -> bool {
    name.starts_with('.') || [".tmp", ".part", "~"].iter().any(|end| name.ends_with(end))
}

fn is_numeric(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit())
}

fn stamp_from(metadata: &Metadata) -> FileStamp {
    FileStamp {
        len: metadata.len(),
        modified: metadata.modified().ok(),
        inode: inode(metadata),
    }
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

#[cfg(test)]
mod tests;
