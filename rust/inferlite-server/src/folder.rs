//! A folder of models for a test, which is gone with it.

use std::path::PathBuf;
use std::{env, fs, process};

pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    /// A folder for the test of this name, with an empty file for each model.
    pub(crate) fn of(test: &str, models: &[&str]) -> Self {
        let folder = Self(env::temp_dir().join(format!("inferlite-{test}-{}", process::id())));
        fs::create_dir_all(&folder.0).unwrap();
        for model in models {
            fs::write(folder.0.join(model), "").unwrap();
        }
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
