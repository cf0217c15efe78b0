//! The threads that load models: as a rule one after the other, and past a load that does not end.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::Builder;
use std::time::{Duration, Instant};

use inferlite_core::repository::{Repository, Task};

use crate::server::Stopping;

/// How long one model may take before the others are loaded beside it. Two at a time are slower than one after the
/// other, and their trial runs measure each other.
const PATIENCE: Duration = Duration::from_secs(5);

/// When a folder that cannot be read is looked at again, and whether a load goes on, where nobody says.
const RETRY: Duration = Duration::from_secs(1);

/// Who loads, and what is still to be loaded.
#[derive(Debug)]
pub(crate) struct Loaders {
    repository: Arc<Repository>,
    patience: Duration,
    line: Mutex<Line>,
    /// Every thread holds one: all are over when the other side hears so.
    alive: mpsc::SyncSender<()>,
}

#[derive(Debug, Default)]
struct Line {
    tasks: VecDeque<Task>,
    /// The thread that may take the next task, and since when it has been at the present one.
    loader: Option<(u64, Instant)>,
    threads: u64,
}

impl Loaders {
    pub(crate) fn new(repository: Arc<Repository>, patience: Duration, alive: mpsc::SyncSender<()>) -> Arc<Self> {
        Arc::new(Self {
            repository,
            patience,
            line: Mutex::default(),
            alive,
        })
    }

    /// Whether all tasks have been begun.
    fn has_room(&self) -> bool {
        self.line().tasks.is_empty()
    }

    fn give(&self, tasks: Vec<Task>) {
        self.line().tasks.extend(tasks);
    }

    /// Sees to it that somebody works on the tasks; a thread that is stuck in one is left there, and ends afterwards.
    fn tend(self: &Arc<Self>) -> io::Result<()> {
        let mut line = self.line();
        let is_at_work = |(_, since): (u64, Instant)| since.elapsed() < self.patience;
        if line.tasks.is_empty() || line.loader.is_some_and(is_at_work) {
            return Ok(());
        }
        let mine = line.threads + 1;
        let loaders = self.clone();
        Builder::new()
            .name("inferlite-loader".to_owned())
            .spawn(move || loaders.load(mine))?;
        line.threads = mine;
        line.loader = Some((mine, Instant::now()));
        Ok(())
    }

    fn load(&self, mine: u64) {
        let _alive = self.alive.clone();
        while let Some(task) = self.next(mine) {
            self.repository.perform(task, &|_| ());
        }
    }

    /// The next task of a thread, unless it has none or another one has taken its place.
    fn next(&self, mine: u64) -> Option<Task> {
        let mut line = self.line();
        if line.loader.is_none_or(|(loader, _)| loader != mine) {
            return None;
        }
        let task = line.tasks.pop_front();
        line.loader = task.is_some().then(|| (mine, Instant::now()));
        task
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Loads all that is in the folder, and watches it at an interval, if there is one, until it is time to end.
pub(crate) fn watch(
    repository: &Arc<Repository>,
    interval: Option<Duration>,
    until: &Stopping,
    alive: mpsc::SyncSender<()>,
) {
    let loaders = Loaders::new(repository.clone(), PATIENCE, alive);
    let pause = interval.unwrap_or(RETRY);
    // A folder that cannot be read is told of by the index, and looked at again.
    loop {
        if let Ok(tasks) = repository.begin(&|_| ()) {
            loaders.give(tasks);
            break;
        }
        if until.wait(pause) {
            return;
        }
    }
    loop {
        // Where no thread can be had now, one may be had later.
        let _ = loaders.tend();
        if interval.is_none() && loaders.has_room() {
            return;
        }
        if until.wait(pause) {
            break;
        }
        if interval.is_some() && loaders.has_room() {
            loaders.give(repository.due(&|_| ()));
        }
    }
    loaders.line().tasks.clear();
}

#[cfg(test)]
mod tests {
    use std::fs;

    use inferlite_core::clock::Clock;
    use inferlite_core::repository::{ModelSettings, Opener, RepositorySettings, VersionFiles};
    use inferlite_core::{Error, ErrorKind, Model};

    use super::*;
    use crate::folder::Folder;

    /// Says what it opens, and does not come back from `hangs` before it is let go.
    struct Slow(mpsc::Sender<String>, Mutex<mpsc::Receiver<()>>);

    impl Opener for Slow {
        fn open(&self, files: &VersionFiles, _: &ModelSettings) -> inferlite_core::Result<Arc<Model>> {
            let _ = self.0.send(files.name.clone());
            if files.name == "hangs" {
                let _ = self.1.lock().unwrap().recv();
            }
            Err(Error::new(ErrorKind::Fail, "it is no model"))
        }
    }

    #[test]
    fn a_load_that_does_not_end_holds_up_no_other_model_and_ends_its_thread_afterwards() {
        let folder = Folder::of("watch", &["hangs.onnx", "other.onnx"]);
        let (says, heard) = mpsc::channel();
        let (let_go, go) = mpsc::channel();
        let settings = RepositorySettings { settle: Duration::ZERO };
        let opener = Box::new(Slow(says, Mutex::new(go)));
        let repository = Repository::new(folder.0.clone(), opener, settings, Clock::default()).unwrap();
        let (alive, ended) = mpsc::sync_channel(1);
        let loaders = Loaders::new(repository.clone(), Duration::ZERO, alive);
        loaders.give(repository.begin(&|_| ()).unwrap());
        loaders.tend().unwrap();
        assert_eq!(heard.recv().unwrap(), "hangs");
        loaders.tend().unwrap();
        assert_eq!(heard.recv().unwrap(), "other");
        assert!(loaders.has_room());
        assert!(!repository.has_started());
        // What comes later is loaded as well, and nobody waits for the other one a second time.
        fs::write(folder.0.join("third.onnx"), "").unwrap();
        loaders.give(repository.due(&|_| ()));
        loaders.tend().unwrap();
        assert_eq!(heard.recv().unwrap(), "third");
        drop(loaders);
        assert_eq!(ended.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(let_go);
        assert_eq!(ended.recv(), Err(mpsc::RecvError));
        assert!(repository.has_started());
        assert!(heard.try_recv().is_err());
    }

    #[test]
    fn models_are_loaded_one_after_the_other_as_a_rule() {
        let folder = Folder::of("turns", &["hangs.onnx", "other.onnx"]);
        let (says, heard) = mpsc::channel();
        let (let_go, go) = mpsc::channel();
        let opener = Box::new(Slow(says, Mutex::new(go)));
        let settings = RepositorySettings::default();
        let repository = Repository::new(folder.0.clone(), opener, settings, Clock::default()).unwrap();
        let (alive, ended) = mpsc::sync_channel(1);
        let loaders = Loaders::new(repository.clone(), Duration::MAX, alive);
        loaders.give(repository.begin(&|_| ()).unwrap());
        for _ in 0..3 {
            loaders.tend().unwrap();
        }
        assert_eq!(heard.recv().unwrap(), "hangs");
        assert!(!loaders.has_room());
        assert_eq!(loaders.line().threads, 1);
        drop((let_go, loaders));
        assert_eq!(ended.recv(), Err(mpsc::RecvError));
        assert_eq!(heard.iter().next().as_deref(), Some("other"));
    }
}
