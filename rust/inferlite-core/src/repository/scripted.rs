//! A folder that tests write to, and an opener that does what the files in it say.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use super::{Event, ModelSettings, Opener, Repository, RepositorySettings, VersionFiles};
use crate::clock::{Clock, Hand};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::runtime::{Argument, Call, Dim, Engine, Outputs, Signature, ValueType};
use crate::tensor::{Dtype, Value};

pub(super) const SETTLE: Duration = Duration::from_secs(2);

/// A folder that goes with the test.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

static COUNT: AtomicU64 = AtomicU64::new(0);

impl Folder {
    pub(super) fn new() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("inferlite-repository-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("it is writable");
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Puts a file in its place at once, as those do who write beside it and rename; every one has a time of its own,
    /// since two within a tick of the system's clock may look alike.
    pub(super) fn put(&self, path: &str, content: &str) {
        let path = self.0.join(path);
        let folder = path.parent().expect("it lies in the folder");
        fs::create_dir_all(folder).expect("it is writable");
        let beside = folder.join(".beside");
        fs::write(&beside, content).expect("it is writable");
        let seconds = 1_000_000_000 + COUNT.fetch_add(1, Ordering::Relaxed);
        let file = File::options().write(true).open(&beside).expect("it is there");
        let time = UNIX_EPOCH + Duration::from_secs(seconds);
        file.set_modified(time).expect("it is ours");
        fs::rename(&beside, &path).expect("it is one file system");
    }

    pub(super) fn remove(&self, path: &str) {
        let path = self.0.join(path);
        if path.is_dir() {
            fs::remove_dir_all(path).expect("it is ours");
        } else {
            fs::remove_file(path).expect("it is there");
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[derive(Debug)]
struct Scripted(Signature);

impl Engine for Scripted {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn run(&self, call: &Call<'_>) -> Result<Outputs<'_>> {
        Ok(Outputs::of_values(call.fetches.iter().map(|_| Value::Absent)))
    }

    fn is_straight_line(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "scripted"
    }
}

fn signature(rows: Dim) -> Signature {
    let x = ValueType::Tensor {
        dtype: Dtype::Float32,
        shape: Some(vec![rows, Dim::Fixed(4)]),
    };
    Signature {
        inputs: Argument::new("x".to_owned(), x).into_iter().collect(),
        required: 1,
        outputs: Vec::new(),
    }
}

type Hook = Box<dyn Fn(&VersionFiles) + Send + Sync>;

/// What is shared between an opener and its test.
#[derive(Default)]
pub(super) struct Script {
    pub(super) opened: Mutex<Vec<String>>,
    /// Called between reading a file and making a model of it.
    pub(super) hook: Mutex<Option<Arc<Hook>>>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script")
            .field("opened", &self.opened)
            .finish_non_exhaustive()
    }
}

impl Script {
    pub(super) fn meanwhile(&self, hook: impl Fn(&VersionFiles) + Send + Sync + 'static) {
        *self.hook.lock().expect("no panic") = Some(Arc::new(Box::new(hook)));
    }
}

struct ScriptedOpener(Arc<Script>);

impl Opener for ScriptedOpener {
    /// A model that is called as its file says. The first word decides: `good` takes any number of rows, `narrow` one,
    /// `bad` fails and `panic` panics.
    fn open(&self, files: &VersionFiles, _: &ModelSettings) -> Result<Arc<Model>> {
        let content =
            fs::read_to_string(&files.path).map_err(|error| Error::new(ErrorKind::NoSuchFile, error.to_string()))?;
        let hook = self.0.hook.lock().expect("no panic").clone();
        if let Some(hook) = hook {
            hook(files);
        }
        self.0.opened.lock().expect("no panic").push(content.clone());
        let rows = match content.split(' ').next() {
            Some("good") => Dim::Symbol("batch".to_owned()),
            Some("narrow") => Dim::Fixed(1),
            Some("panic") => panic!("as told by `{content}`"),
            _ => {
                return Err(Error::new(
                    ErrorKind::InvalidProtobuf,
                    format!("no model in `{content}`"),
                ));
            }
        };
        let engine = Box::new(Scripted(signature(rows)));
        Ok(Arc::new(Model::new(content, engine, None)))
    }
}

/// A repository over a folder, whose time the test holds.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) folder: Folder,
    pub(super) repository: Arc<Repository>,
    pub(super) script: Arc<Script>,
    pub(super) hand: Hand,
    events: Mutex<Vec<Event>>,
}

impl Stage {
    /// Nothing is loaded yet.
    pub(super) fn over(files: &[(&str, &str)]) -> Self {
        let folder = Folder::new();
        for (path, content) in files {
            folder.put(path, content);
        }
        let script = Arc::new(Script::default());
        let (repository, hand) = open(&folder, &script);
        Self {
            folder,
            repository,
            script,
            hand,
            events: Mutex::default(),
        }
    }

    /// All is loaded.
    pub(super) fn with(files: &[(&str, &str)]) -> Self {
        let stage = Self::over(files);
        stage.load_all();
        stage
    }

    pub(super) fn load_all(&self) {
        self.repository
            .load_all(&|event| self.note(event))
            .expect("the folder is there");
    }

    /// Another process over the same folder.
    pub(super) fn restart(&mut self) {
        (self.repository, self.hand) = open(&self.folder, &self.script);
        self.load_all();
    }

    pub(super) fn put(&self, path: &str, content: &str) {
        self.folder.put(path, content);
    }

    pub(super) fn remove(&self, path: &str) {
        self.folder.remove(path);
    }

    pub(super) fn scan(&self) {
        self.repository.scan(&|event| self.note(event));
    }

    /// Looks, lets the time pass after which what was seen counts, and looks again.
    pub(super) fn settle(&self) {
        self.scan();
        self.hand.advance(SETTLE);
        self.scan();
    }

    /// The content of the file that a request would be answered from, or why there is none.
    pub(super) fn serves(&self, name: &str, version: Option<&str>) -> String {
        match self.repository.find(name, version) {
            Ok(served) => served.model.name().to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// The index, a line for each entry.
    pub(super) fn index(&self) -> Vec<String> {
        let line = |entry: super::IndexEntry| {
            let version = entry.version.as_deref().unwrap_or("-");
            let line = format!("{} {version} {} {}", entry.name, entry.state, entry.reason);
            // The folder has another name in every test.
            line.replace(&self.folder.path().display().to_string(), "ROOT")
                .trim_end()
                .to_owned()
        };
        self.repository.index().into_iter().map(line).collect()
    }

    /// The contents that were opened since the last call.
    pub(super) fn opened(&self) -> Vec<String> {
        std::mem::take(&mut self.script.opened.lock().expect("no panic"))
    }

    /// What happened since the last call.
    pub(super) fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().expect("no panic"))
    }

    fn note(&self, event: Event) {
        self.events.lock().expect("no panic").push(event);
    }
}

fn open(folder: &Folder, script: &Arc<Script>) -> (Arc<Repository>, Hand) {
    let (clock, hand) = Clock::held();
    let settings = RepositorySettings { settle: SETTLE };
    let opener = Box::new(ScriptedOpener(script.clone()));
    let repository = Repository::new(folder.path().to_owned(), opener, settings, clock);
    (repository.expect("the folder is there"), hand)
}
