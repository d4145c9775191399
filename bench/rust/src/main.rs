//! Stores finished requests with the original's store, as `python -m bench rust` orders on standard input.
//!
//! The arguments are the database's URL, a file of bodies and `make` or `use`: whether the tables are made here. Each
//! order is a line of JSON, and so is each answer.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use fusillade::{CreateRealtimeInput, PersistCompletedRealtimeInput, Storage};
use fusillade_arsenal::{PostgresRequestManager, PostgresStorageConfig};
use serde::Deserialize;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::mpsc;
use uuid::Uuid;

const CAPACITY: usize = 10_000;
const BEGINNING_AT_ONCE: usize = 4;
const MODEL: &str = "gpt-4o-mini";
const PATH: &str = "/v1/responses";

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Record = PersistCompletedRealtimeInput;
type Store = PostgresRequestManager<PgPool>;

#[derive(Deserialize)]
struct Order {
    path: String,
    batch: usize,
    records: usize,
    warm_up: usize,
    /// Records a second; without it, as fast as they go in.
    rate: Option<f64>,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, bodies, tables] = arguments.as_slice() else {
        return Err("arguments: URL BODIES make|use".into());
    };
    let bodies: Vec<(String, String)> = serde_json::from_str(&std::fs::read_to_string(bodies)?)?;
    // one thread, as the writer beside it has: its processor time is compared, not its parallelism
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if tables == "make" {
        runtime.block_on(make_tables(url))?;
    }
    say(&serde_json::json!("ready"))?;
    let mut lines = std::io::stdin().lock().lines();
    while let Some(line) = lines.next() {
        let order: Order = serde_json::from_str(&line?)?;
        runtime.block_on(turn(url, &bodies, &order, &mut lines))?;
        say(&serde_json::json!("closed"))?;
    }
    Ok(())
}

async fn make_tables(url: &str) -> Result<(), Failure> {
    let pool = PgPoolOptions::new().max_connections(1).connect(url).await?;
    fusillade_arsenal::MIGRATOR.run(&pool).await?;
    pool.close().await;
    Ok(())
}

/// Stores the records of the warm-up, waits for a line, stores the others and tells how long that took.
async fn turn(
    url: &str,
    bodies: &[(String, String)],
    order: &Order,
    lines: &mut impl Iterator<Item = std::io::Result<String>>,
) -> Result<(), Failure> {
    let pool = PgPoolOptions::new().max_connections(5).connect(url).await?;
    let store = Arc::new(PostgresRequestManager::new(pool.clone(), PostgresStorageConfig::default()));
    let mut records: Vec<Record> = (0..order.warm_up + order.records).map(|number| made(bodies, number)).collect();
    if order.path == "update" {
        begin(&store, &records).await?;
        sqlx::raw_sql("ANALYZE requests, request_templates").execute(&pool).await?;
    }
    let rest = records.split_off(order.warm_up);
    write(&store, records, order.batch, None).await?;
    say(&serde_json::json!("ready"))?;
    lines.next().transpose()?;
    let (cpu, started) = (processor_time(), Instant::now());
    write(&store, rest, order.batch, order.rate).await?;
    say(&serde_json::json!({"seconds": started.elapsed().as_secs_f64(), "cpu": processor_time() - cpu}))?;
    lines.next().transpose()?;
    pool.close().await;
    Ok(())
}

/// Sends the records through a bounded channel to one consumer, which writes what is queued up to a batch.
async fn write(store: &Arc<Store>, records: Vec<Record>, batch: usize, rate: Option<f64>) -> Result<(), Failure> {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    let consumer = tokio::spawn(consume(store.clone(), receiver, batch));
    let started = tokio::time::Instant::now();
    for (number, record) in records.into_iter().enumerate() {
        if let Some(rate) = rate {
            tokio::time::sleep_until(started + Duration::from_secs_f64(number as f64 / rate)).await;
        }
        sender.send(record).await?;
        if rate.is_none() && (number + 1) % batch == 0 {
            tokio::task::yield_now().await;
        }
    }
    drop(sender);
    consumer.await?
}

async fn consume(store: Arc<Store>, mut receiver: mpsc::Receiver<Record>, batch: usize) -> Result<(), Failure> {
    let mut taken = Vec::with_capacity(batch);
    while receiver.recv_many(&mut taken, batch).await > 0 {
        store.persist_completed_realtime_batch(&taken).await?;
        taken.clear();
    }
    Ok(())
}

/// Inserts a row in `processing` for each record, as a service does when a request begins.
async fn begin(store: &Arc<Store>, records: &[Record]) -> Result<(), Failure> {
    let size = records.len().div_ceil(BEGINNING_AT_ONCE).max(1);
    let mut tasks = tokio::task::JoinSet::new();
    for part in records.chunks(size) {
        let (store, part) = (store.clone(), part.to_vec());
        tasks.spawn(async move {
            for record in part {
                store.create_realtime(begun(record)).await?;
            }
            Ok::<(), fusillade::FusilladeError>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

fn made(bodies: &[(String, String)], number: usize) -> Record {
    let (request_body, response_body) = bodies[number % bodies.len()].clone();
    let now = Utc::now();
    Record {
        request_id: Uuid::now_v7(),
        response_body,
        status_code: 200,
        request_body,
        model: MODEL.into(),
        endpoint: String::new(),
        method: "POST".into(),
        path: PATH.into(),
        api_key: "sk-bench".into(),
        created_by: "bench".into(),
        started_at: now - TimeDelta::seconds(1),
        completed_at: now,
    }
}

fn begun(record: Record) -> CreateRealtimeInput {
    CreateRealtimeInput {
        request_id: record.request_id,
        body: record.request_body,
        model: record.model,
        endpoint: record.endpoint,
        method: record.method,
        path: record.path,
        api_key: record.api_key,
        created_by: record.created_by,
    }
}

/// Returns this process's seconds of processor time, its own and the kernel's.
fn processor_time() -> f64 {
    let mut usage = unsafe { std::mem::zeroed::<libc::rusage>() };
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn say(answer: &serde_json::Value) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{answer}")?;
    Ok(output.flush()?)
}
