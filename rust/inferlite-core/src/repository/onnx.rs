//! Opens what a repository holds, as its settings say.

use std::sync::Arc;

use super::settings::{Batching, CacheBy, ModelSettings};
use super::{Opener, VersionFiles, warmup};
use crate::batch::BatchSettings;
use crate::cache::{Portable, PredictionCache};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::fork::PerProcess;
use crate::model::Model;
use crate::rows::{self, Demand, Layout};
use crate::runtime::ort::{Fingerprint, ModelSource, OrtEngine, RunOptions, SessionSettings};
use crate::runtime::{Argument, Engine as _, Signature};
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
        let source = ModelSource::Path(files.path.clone());
        let shared = settings.cache.as_ref().and_then(|kept| kept.shared.as_ref());
        let fingerprint = shared.map(|_| Fingerprint::take(&source, &session));
        // What the runtime says about a model that cannot be loaded comes first.
        let engine = Arc::new(OrtEngine::load(source, &session)?);
        let identity = fingerprint.transpose()?.map(|taken| taken.check()).transpose()?;
        check_axes(engine.signature(), settings)?;
        let stats = Arc::<CallStats>::default();
        let mut model = Model::new(files.name.clone(), Box::new(engine.clone()), Some(stats));
        if let Some(kept) = &settings.cache {
            refuse_random(&engine)?;
            let settings = kept.settings;
            let shared = shared.zip(identity).map(|(shared, identity)| {
                let portable = Portable::new(identity, Some(shared.secret.text().as_bytes()));
                (portable, shared.place.server(shared.timeout))
            });
            let cache = PerProcess::new(move || {
                let cache = PredictionCache::new(settings, Clock::default());
                match &shared {
                    Some((portable, server)) => cache.with_shared(portable.clone(), server.clone()),
                    None => cache,
                }
            });
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

/// Refuses axes that are not the model's: where nothing demands rows, nobody else would say so.
fn check_axes(signature: &Signature, settings: &ModelSettings) -> Result<()> {
    let refused = |text| Err(Error::new(ErrorKind::InvalidArgument, text));
    for (name, axis) in &settings.batch_axes {
        let input = signature.input(name).and_then(|index| signature.inputs.get(index));
        let output = signature.output(name).and_then(|index| signature.outputs.get(index));
        if input.is_none() && output.is_none() {
            return refused(format!(
                "`batch_axes.{name}` in `model.toml` is no input or output of the model, whose inputs are {} and whose \
                 outputs are {}",
                listed(&signature.inputs),
                listed(&signature.outputs)
            ));
        }
        for argument in input.into_iter().chain(output) {
            match (axis, argument.shape()) {
                (Some(axis), Some(shape)) if *axis >= shape.len() => {
                    return refused(format!(
                        "`batch_axes.{name}` in `model.toml` is {axis}, but `{name}` has {} axes, counted from 0",
                        shape.len()
                    ));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn listed<'a>(arguments: impl IntoIterator<Item = &'a Argument>) -> String {
    let names: Vec<String> = arguments
        .into_iter()
        .map(|argument| format!("`{}`", argument.name))
        .collect();
    names.join(", ")
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
        let lengths = settings.lengths();
        let layout = if lengths.is_empty() {
            axes.clone().into()
        } else {
            Layout::padded(engine, axes.clone(), lengths, &demand, &clock, &|| Ok(()))?
        };
        model.batch_rows(&layout, batched, &measured);
    }
    if by_row {
        model.keep_rows(axes);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Dim, ValueType};
    use crate::tensor::Dtype;

    fn refusal(settings: &str) -> Option<String> {
        let argument = |name: &str| {
            let shape = Some(vec![Dim::Symbol("n".to_owned()), Dim::Fixed(4)]);
            let dtype = Dtype::Float32;
            Argument::new(name.to_owned(), ValueType::Tensor { dtype, shape }).expect("it has a type")
        };
        let signature = Signature {
            inputs: vec![argument("a"), argument("b")],
            required: 2,
            outputs: vec![argument("y")],
        };
        let settings = ModelSettings::parse(settings, "model.toml").expect("it is TOML");
        let checked = check_axes(&signature, &settings);
        checked.err().map(|error| error.message().to_owned())
    }

    #[test]
    fn axes_of_nothing_that_the_model_has_are_refused_even_if_nobody_needs_them() {
        assert_eq!(refusal("batch_axes = { a = 0, b = \"none\", y = 1 }"), None);
        let name = "`batch_axes.c` in `model.toml` is no input or output of the model, whose inputs are `a`, `b` and whose \
                    outputs are `y`";
        assert_eq!(refusal("[batch_axes]\nc = 0").as_deref(), Some(name));
        let axis = "`batch_axes.y` in `model.toml` is 2, but `y` has 2 axes, counted from 0";
        assert_eq!(refusal("batching = false\nbatch_axes.y = 2").as_deref(), Some(axis));
    }
}
