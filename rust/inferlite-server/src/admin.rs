//! Everything that is asked about models and done with them, but for inference.

use inferlite_core::ErrorKind;
use inferlite_core::repository::{IndexEntry, Served, VersionState};
use std::sync::Arc;

use crate::figures::Figures;
use crate::json::{Fault, Reader, writer};
use crate::routes::Route;
use crate::service::{Reply, found};
use crate::state::State;
use crate::status::Failure;
use crate::wire::change::{self, Change};
use crate::wire::{Refusal, metadata};

const EXTENSIONS: [&str; 5] = [
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
];

/// Answers what is neither inference nor metrics.
pub(crate) async fn answer(route: Route<'_>, body: &[u8], state: &State) -> Result<Reply, Failure> {
    let mut json = Vec::new();
    match route {
        Route::ServerMetadata => {
            metadata::write_server(&mut json, "inferlite", env!("CARGO_PKG_VERSION"), &EXTENSIONS);
        }
        // Triton says no more than the status; KServe's client reads a body.
        Route::Live => json.extend_from_slice(b"{\"live\":true}"),
        Route::Ready if state.is_ready() => json.extend_from_slice(b"{\"ready\":true}"),
        Route::Ready => return Err(Failure::new(503, "the server is not ready")),
        Route::ModelReady(target) => {
            // As Triton, which does not say why; 400 is what the protocol's clients know of a model that is there.
            let served = found(state, target).map_err(|failure| {
                let status = if failure.status == 404 { 404 } else { 400 };
                Failure::new(status, "Model version not ready")
            })?;
            json.extend_from_slice(b"{\"name\":");
            writer::string(&mut json, &served.name);
            json.extend_from_slice(b",\"ready\":true}");
        }
        Route::Models => write_models(&mut json, state),
        Route::Metadata(target) => {
            let served = found(state, target)?;
            let versions = versions(state, &served);
            let versions: Vec<&str> = versions.iter().map(|served| &*served.version_text).collect();
            let platform = format!("{}_onnx", served.model.engine().name());
            metadata::write_model(&mut json, &served.name, &versions, &platform, served.model.signature());
        }
        Route::Config(target) => {
            let served = found(state, target)?;
            metadata::write_config(
                &mut json,
                &served.name,
                served.model.engine().name(),
                served.model.signature(),
            );
        }
        Route::Statistics(target) => {
            let of_one = target.version.map(|_| found(state, target)).transpose()?;
            let all = match of_one {
                Some(served) => vec![served],
                None => versions(state, &found(state, target)?),
            };
            write_statistics(
                &mut json,
                &all.iter().map(|served| state.figures_of(served)).collect::<Vec<_>>(),
            );
        }
        Route::AllStatistics => write_statistics(&mut json, &state.figures()),
        Route::Index => {
            let is_ready_only = index_asks_for_ready(body)?;
            let index = index(state).await;
            let shown = index
                .iter()
                .filter(|entry| !is_ready_only || entry.state == VersionState::Ready);
            let shown: Vec<_> = shown.map(|entry| (entry, entry.state.to_string())).collect();
            let entries = shown.iter().map(|(entry, state)| metadata::IndexEntry {
                name: &entry.name,
                version: entry.version.as_deref(),
                state: Some(state),
                reason: Some(&*entry.reason).filter(|reason| !reason.is_empty()),
            });
            metadata::write_index(&mut json, entries);
        }
        Route::Load(model) => return change(state, model, Change::Load, body).await,
        Route::Unload(model) => return change(state, model, Change::Unload, body).await,
        Route::Rollback(model) => return change(state, model, Change::Rollback, body).await,
        Route::Infer(_) | Route::Predict | Route::Classic(_) | Route::Metrics | Route::OpenApi => {
            return Err(Failure::new(404, "Not Found"));
        }
    }
    Ok(Reply::json(json))
}

/// All versions of a model of which one serves.
fn versions(state: &State, served: &Arc<Served>) -> Vec<Arc<Served>> {
    let listed = state.repository.model(&served.name);
    listed.map_or_else(|| vec![served.clone()], |listed| listed.versions)
}

/// What there is, with a look at the folder where nobody else looks.
async fn index(state: &State) -> Vec<IndexEntry> {
    if !state.is_watched {
        let repository = state.repository.clone();
        // Without a thread for it, what was seen last has to do.
        let _ = actix_web::web::block(move || repository.look_around()).await;
    }
    state.repository.index()
}

/// Does something to the repository on a thread that may wait for it.
async fn change(state: &State, model: &str, change: Change, body: &[u8]) -> Result<Reply, Failure> {
    change::read(body, change, model)?;
    let (repository, model) = (state.repository.clone(), model.to_owned());
    let changed = actix_web::web::block(move || match change {
        Change::Load => repository.load(&model),
        Change::Unload => repository.unload(&model),
        Change::Rollback => repository.rollback(&model).map(drop),
    });
    let changed = changed.await;
    match changed {
        Ok(Ok(())) => Ok(Reply::json(Vec::new())),
        // As Triton, to whom a model that cannot be loaded is a mistake of the request's.
        Ok(Err(error)) if error.kind() == ErrorKind::Fail => Err(Failure::new(400, error.message())),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Failure::new(503, "the server is stopping")),
    }
}

/// Reads `{"ready": true}`, which asks for the models that are ready alone.
fn index_asks_for_ready(body: &[u8]) -> Result<bool, Failure> {
    if body.trim_ascii().is_empty() {
        return Ok(false);
    }
    let read = || {
        let mut reader = Reader::new(body)?;
        let mut members = reader.object()?;
        let mut is_asked = false;
        while let Some(member) = members.next(&mut reader)? {
            match &*member {
                "ready" => is_asked = reader.boolean()?,
                _ => reader.skip_value()?,
            }
        }
        reader.end()?;
        Ok(is_asked)
    };
    read().map_err(|fault: Fault| Failure::from(Refusal::from(fault)))
}

fn write_models(json: &mut Vec<u8>, state: &State) {
    json.extend_from_slice(b"{\"models\":[");
    for (position, listed) in state.repository.models().iter().enumerate() {
        if position > 0 {
            json.push(b',');
        }
        writer::string(json, &listed.name);
    }
    json.extend_from_slice(b"]}");
}

fn write_statistics(json: &mut Vec<u8>, all: &[Figures]) {
    json.extend_from_slice(b"{\"model_stats\":[");
    for (position, figures) in all.iter().enumerate() {
        if position > 0 {
            json.push(b',');
        }
        json.extend_from_slice(statistics(figures).as_bytes());
    }
    json.extend_from_slice(b"]}");
}

/// As Triton words it; what is measured for a batch as a whole has no `compute_input` and `compute_output` apart.
fn statistics(figures: &Figures) -> String {
    let entry = |count: u64, ns: u128| format!("{{\"count\":{count},\"ns\":{ns}}}");
    let failed = figures.failed.iter().sum();
    let (hits, misses) = figures
        .cache
        .as_ref()
        .map_or((0, 0), |cache| (cache.hits, cache.misses));
    let sizes = figures.batch.iter().flat_map(|batch| &batch.sizes);
    let batches: Vec<String> = sizes
        .map(|(size, count)| {
            let count = entry(*count, 0);
            format!("{{\"batch_size\":{size},\"compute_infer\":{count}}}")
        })
        .collect();
    // Triton has no such member, and its clients pass it over.
    let shared = figures.shared.map_or_else(String::new, |shared| {
        format!(
            ",\"shared_cache\":{{\"hits\":{},\"misses\":{},\"errors\":{},\"paused\":{}}}",
            shared.hits, shared.misses, shared.errors, shared.is_open
        )
    });
    format!(
        "{{\"name\":{},\"version\":\"{}\",\"last_inference\":{},\"inference_count\":{},\"execution_count\":{},\
         \"inference_stats\":{{\"success\":{},\"fail\":{},\"queue\":{},\"compute_input\":{},\"compute_infer\":{},\
         \"compute_output\":{},\"cache_hit\":{},\"cache_miss\":{}}},\"batch_stats\":[{}]{shared}}}",
        writer::quoted(&figures.model),
        figures.version,
        figures.counts.last(),
        figures.rows,
        figures.runs,
        entry(figures.succeeded, figures.counts.answered.at_most(&[]).1.as_nanos()),
        entry(failed, figures.counts.failed_time().as_nanos()),
        entry(figures.succeeded, figures.queue_time.as_nanos()),
        entry(figures.runs, 0),
        entry(figures.runs, figures.compute_time.as_nanos()),
        entry(figures.runs, 0),
        entry(hits, 0),
        entry(misses, 0),
        batches.join(",")
    )
}
