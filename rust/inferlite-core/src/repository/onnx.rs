//! Opens what a repository holds, as its settings say.

use std::sync::Arc;

use super::settings::{Batching, CacheBy, ModelSettings};
use super::{Opener, VersionFiles, warmup};
use crate::batch::BatchSettings;
use crate::cache::PredictionCache;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::fork::PerProcess;
use crate::model::Model;
use crate::rows::{self, Demand};
use crate::runtime::ort::{ModelSource, OrtEngine, RunOptions, SessionSettings};
use crate::stats::CallStats;

/// The runtime's most severe level.
const FATAL: i32 = 4;

/// Opens ONNX models in ONNX Runtime.
#[derive(Debug)]
pub struct OnnxOpener {
    /// How many threads all runs of a model may keep busy.
    threads: usize,
}

impl OnnxOpener {
    /// An opener for a process that may keep so many threads busy.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self { threads }
    }
}

impl Opener for OnnxOpener {
    fn open(&self, files: &VersionFiles, settings: &ModelSettings) -> Result<Arc<Model>> {
        // Many callers are served best by many runs that need no other thread; these are also the ones that an event loop
        // may wait for.
        let threads = settings.threads.unwrap_or(1);
        let instances = (self.threads / threads).max(1);
        let session = SessionSettings {
            intra_op_num_threads: Some(i32::try_from(threads).unwrap_or(i32::MAX)),
            name: Some(files.name.clone()),
            ..SessionSettings::default()
        };
        let engine = Arc::new(OrtEngine::load(ModelSource::Path(files.path.clone()), &session)?);
        let stats = Arc::<CallStats>::default();
        let mut model = Model::new(files.name.clone(), Box::new(engine.clone()), Some(stats));
        if let Some(kept) = &settings.cache {
            refuse_random(&engine)?;
            let settings = kept.settings;
            let cache = PerProcess::new(move || PredictionCache::new(settings, Clock::default()));
            model = model.with_cache(cache);
        }
        let model = Arc::new(model);
        let by_row = settings.cache.as_ref().is_some_and(|kept| kept.by == CacheBy::Row);
        let batched = settings.batch_settings(instances);
        if by_row || batched.is_some() {
            let is_needed = by_row || matches!(settings.batching, Batching::Required(_));
            match use_rows(&engine, &model, settings, batched, by_row) {
                Err(error) if is_needed => {
                    let wanted = if by_row { "cached by row" } else { "batched" };
                    let text = format!("it cannot be {wanted}: {}", error.message());
                    return Err(Error::new(ErrorKind::InvalidArgument, text));
                }
                Ok(()) | Err(_) => {}
            }
        }
        warmup::run(&model, &settings.warmup)?;
        Ok(model)
    }
}

fn refuse_random(engine: &OrtEngine) -> Result<()> {
    let node = engine.model_file().and_then(|file| file.random_node());
    match node {
        None => Ok(()),
        Some(node) => Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("its answers cannot be cached: {node} may be random"),
        )),
    }
}

/// Batches calls, keeps answers by the row, or both.
fn use_rows(
    engine: &Arc<OrtEngine>,
    model: &Model,
    settings: &ModelSettings,
    batched: Option<BatchSettings>,
    by_row: bool,
) -> Result<()> {
    let mut options = RunOptions::new()?;
    // A trial may fail, which is no news to anyone.
    options.set_log_severity_level(FATAL)?;
    let declared = settings.declared_axes();
    let demand = Demand {
        declared: &declared,
        example: None,
        is_independent: settings.rows_independent,
        options: Some(&options),
    };
    let clock = Clock::default();
    let file = engine.model_file();
    let axes = rows::establish(engine, file.as_ref(), &demand, &clock, &|| Ok(()))?;
    if let Some(batched) = batched {
        let measured = rows::measure(engine, &axes, &demand, &clock, &|| Ok(()));
        model.batch_rows(&axes.clone().into(), batched, &measured);
    }
    if by_row {
        model.keep_rows(axes);
    }
    Ok(())
}
