//! An actix handler with nothing around it: `bare-server LIBRARY MODEL PORT`.
//!
//! It reads the rows of a request, runs them by themselves over the C interface of ONNX Runtime, and writes the answer.
//! No queue, no cache, no metrics; a server that has those is measured by what it adds.

mod session;

use std::path::Path;
use std::process::ExitCode;

use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpResponse, HttpServer, web};
use serde::{Deserialize, Serialize};

use session::Session;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Deserialize)]
struct Request {
    inputs: Vec<Vec<f32>>,
}

#[derive(Serialize)]
struct Reply<'a> {
    outputs: Vec<&'a [f32]>,
}

async fn predict(body: Bytes, session: Data<Session>) -> HttpResponse {
    match answer(&body, &session) {
        Ok(reply) => HttpResponse::Ok().content_type("application/json").body(reply),
        Err(message) => HttpResponse::BadRequest().body(message),
    }
}

fn answer(body: &[u8], session: &Session) -> Result<Vec<u8>, String> {
    let request: Request = sonic_rs::from_slice(body).map_err(|error| error.to_string())?;
    let count = request.inputs.len();
    let mut rows: Vec<f32> = request.inputs.into_iter().flatten().collect();
    session.run(&mut rows, count, |outputs, width| {
        let outputs = outputs.chunks(width).collect();
        sonic_rs::to_vec(&Reply { outputs }).map_err(|error| error.to_string())
    })?
}

#[actix_web::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, model, port] = arguments.as_slice() else {
        eprintln!("usage: bare-server LIBRARY MODEL PORT");
        return ExitCode::FAILURE;
    };
    match serve(library, model, port).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(library: &str, model: &str, port: &str) -> Result<(), String> {
    let port: u16 = port.parse().map_err(|_| format!("`{port}` is no port"))?;
    let session = Data::new(Session::open(Path::new(library), model)?);
    let application = move || {
        App::new()
            .app_data(session.clone())
            .route("/predict", web::post().to(predict))
            .route("/ready", web::get().to(HttpResponse::Ok))
    };
    HttpServer::new(application)
        .workers(1)
        .bind(("127.0.0.1", port))
        .map_err(|error| error.to_string())?
        .run()
        .await
        .map_err(|error| error.to_string())
}
