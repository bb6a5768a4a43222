//! The parts of librdkafka that its Rust wrapper does not offer, and the only place with `unsafe`: one queue for all
//! partitions, read in batches; headers on demand; committed metadata as bytes; topic ids.
//!
//! Guarantees: no pointer of librdkafka leaves this file; every message taken from it is given back, also on a panic;
//! borrowed records live only as long as the call that hands them over. Decides nothing: positions are the caller's.

// The raw calls below have no safe wrapper in rdkafka; each block says why it is sound.
#![allow(unsafe_code)]

use crate::record::{Headers, Record, TopicPartition};
use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaErrorCode;
use std::borrow::Cow;
use std::cell::OnceCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

/// Most records of one [`BatchQueue::consume`].
pub(super) const BATCH_MAX: usize = 1000;

/// A queue that this process made. Must be dropped before its client is destroyed.
pub(super) struct NativeQueue(NonNull<native::rd_kafka_queue_t>);

// SAFETY: librdkafka's queues are locked inside; the pointer is used from any thread, and freed once, by `drop`.
unsafe impl Send for NativeQueue {}
// SAFETY: as above; every call that takes the pointer is thread-safe by librdkafka's documentation.
unsafe impl Sync for NativeQueue {}

impl Drop for NativeQueue {
    fn drop(&mut self) {
        // SAFETY: made by rd_kafka_queue_new in `BatchQueue::new`, whose owner keeps the client alive; freed only here.
        unsafe { native::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

/// One queue for the records of all partitions forwarded to it.
pub(super) struct BatchQueue<C: ConsumerContext + 'static> {
    // Declared before the consumer: dropped first.
    queue: Arc<NativeQueue>,
    _consumer: Arc<BaseConsumer<C>>,
}

/// What a batch holds, in the order of the queue. Per partition that is the order of its offsets.
pub(super) enum Delivery<'a> {
    /// A record.
    Record(Record<'a>),
    /// Something else about a partition, the end of it included. `offset` is the position where that was met.
    Event {
        /// Topic; empty where the event belongs to none.
        topic: &'a str,
        /// Kafka partition.
        partition: i32,
        /// What it is.
        code: RDKafkaErrorCode,
        /// Position, or negative.
        offset: i64,
        /// librdkafka's own words.
        text: Cow<'a, str>,
    },
}

impl<C: ConsumerContext + 'static> BatchQueue<C> {
    /// Makes an empty queue of `consumer`; `None` where librdkafka refuses (out of memory).
    pub(super) fn new(consumer: &Arc<BaseConsumer<C>>) -> Option<Self> {
        // SAFETY: the client pointer is valid while `consumer` lives, and the new queue keeps `consumer` alive.
        let queue = NonNull::new(unsafe { native::rd_kafka_queue_new(consumer.client().native_ptr()) })?;
        Some(Self { queue: Arc::new(NativeQueue(queue)), _consumer: consumer.clone() })
    }

    /// The queue, to forward partitions to it.
    pub(super) fn native(&self) -> &Arc<NativeQueue> {
        &self.queue
    }

    /// Hands over up to `limit` deliveries: waits up to `wait` for the first one and for no other. Returns how many.
    ///
    /// (librdkafka's call waits until the batch is full, so the first one is fetched alone.)
    pub(super) fn consume(&self, limit: usize, wait: Duration, mut take: impl FnMut(Delivery<'_>)) -> usize {
        let first = self.take_batch(1, wait, &mut take);
        if first == 0 || limit <= 1 {
            return first;
        }
        first + self.take_batch(limit.min(BATCH_MAX) - 1, Duration::ZERO, &mut take)
    }

    fn take_batch(&self, limit: usize, wait: Duration, take: &mut impl FnMut(Delivery<'_>)) -> usize {
        let mut batch = Batch { messages: [ptr::null_mut(); BATCH_MAX], next: 0, end: 0 };
        let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue lives as long as self; the array has BATCH_MAX places and `limit` is at most that.
        let taken = unsafe {
            native::rd_kafka_consume_batch_queue(
                self.queue.0.as_ptr(),
                wait_ms,
                batch.messages.as_mut_ptr(),
                limit.min(BATCH_MAX),
            )
        };
        batch.end = usize::try_from(taken).unwrap_or(0); // -1 is an error, and then nothing was taken.
        let count = batch.end;
        while let Some(message) = batch.pop() {
            message.deliver(take);
        }
        count
    }
}

/// Messages taken and not yet handed over; gives them back even if handing over panics.
struct Batch {
    messages: [*mut native::rd_kafka_message_t; BATCH_MAX],
    next: usize,
    end: usize,
}

impl Batch {
    fn pop(&mut self) -> Option<Message> {
        while self.next < self.end {
            let message = NonNull::new(self.messages[self.next]);
            self.next += 1;
            if message.is_some() {
                return message.map(Message);
            }
        }
        None
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

/// One message, owned.
struct Message(NonNull<native::rd_kafka_message_t>);

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: librdkafka gave this message to us in a batch, and it is freed once: Message is neither Copy nor Clone.
        unsafe { native::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

impl Message {
    fn deliver(&self, take: &mut impl FnMut(Delivery<'_>)) {
        // SAFETY: the message is valid until `self` is dropped, and nobody writes to it after it left the queue.
        let raw = unsafe { self.0.as_ref() };
        let topic = self.topic(raw);
        if raw.err != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            let text = bytes(self, raw.payload, raw.len).map_or(Cow::Borrowed(""), String::from_utf8_lossy);
            take(Delivery::Event { topic, partition: raw.partition, code: raw.err.into(), offset: raw.offset, text });
            return;
        }
        let headers = MessageHeaders { message: self, parsed: OnceCell::new() };
        take(Delivery::Record(Record {
            topic,
            partition: raw.partition,
            offset: raw.offset,
            timestamp: self.timestamp(),
            key: bytes(self, raw.key, raw.key_len),
            value: bytes(self, raw.payload, raw.len),
            headers: &headers,
        }));
    }

    fn topic(&self, raw: &native::rd_kafka_message_t) -> &str {
        if raw.rkt.is_null() {
            return "";
        }
        // SAFETY: the message keeps its topic alive, and the name is a constant C string of the topic.
        let name = unsafe { CStr::from_ptr(native::rd_kafka_topic_name(raw.rkt)) };
        name.to_str().unwrap_or("") // Kafka allows only ASCII here.
    }

    fn timestamp(&self) -> Option<i64> {
        let mut kind = native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is valid while self lives; `kind` outlives the call.
        let timestamp = unsafe { native::rd_kafka_message_timestamp(self.0.as_ptr(), &mut kind) };
        (kind != native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE && timestamp >= 0)
            .then_some(timestamp)
    }
}

/// The bytes at `start`, borrowed from `owner`; `None` for a null pointer (a null key, a tombstone).
fn bytes(_owner: &Message, start: *mut c_void, len: usize) -> Option<&[u8]> {
    let start = NonNull::new(start.cast::<u8>())?;
    // SAFETY: librdkafka sets pointer and length together, and the bytes live and stay unchanged as long as the message.
    Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), len) })
}

type Header<'a> = (Cow<'a, str>, Option<&'a [u8]>);

/// The headers of a message: parsed when somebody asks for the first time.
struct MessageHeaders<'a> {
    message: &'a Message,
    parsed: OnceCell<Vec<Header<'a>>>,
}

impl<'a> MessageHeaders<'a> {
    fn parsed(&self) -> &[Header<'a>] {
        self.parsed.get_or_init(|| self.parse())
    }

    fn parse(&self) -> Vec<Header<'a>> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is valid, and its parsed headers belong to it and live as long as it does.
        let code = unsafe { native::rd_kafka_message_headers(self.message.0.as_ptr(), &mut headers) };
        if code != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            if code != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__NOENT {
                tracing::warn!(?code, "the headers of a record cannot be read and count as none");
            }
            return Vec::new();
        }
        let mut parsed = Vec::new();
        loop {
            let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
            // SAFETY: `headers` came from this message; the three places outlive the call; an index past the end is an error code.
            let code =
                unsafe { native::rd_kafka_header_get_all(headers, parsed.len(), &mut name, &mut value, &mut len) };
            if code != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return parsed;
            }
            // SAFETY: on success `name` is a C string of the headers, which live as long as the message.
            let name = unsafe { CStr::from_ptr::<'a>(name) }.to_string_lossy();
            parsed.push((name, bytes(self.message, value.cast_mut(), len)));
        }
    }
}

impl Headers for MessageHeaders<'_> {
    fn len(&self) -> usize {
        self.parsed().len()
    }
    fn get(&self, index: usize) -> (&str, Option<&[u8]>) {
        let (name, value) = &self.parsed()[index];
        (name, *value)
    }
}

/// Sends the records of `partition` to `queue`, or with `None` nowhere but its own queue. Also before it is assigned.
///
/// Undo it when the partition is given back: librdkafka empties the queue it forwards to when it forgets a partition.
pub(super) fn forward<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partition: &TopicPartition,
    queue: Option<&NativeQueue>,
) {
    let Ok(topic) = CString::new(&*partition.topic) else { return };
    // SAFETY: the client pointer is valid while `consumer` lives; the reference returned is given back below.
    let own = unsafe {
        native::rd_kafka_queue_get_partition(consumer.client().native_ptr(), topic.as_ptr(), partition.partition)
    };
    if let Some(own) = NonNull::new(own) {
        let target = queue.map_or(ptr::null_mut(), |queue| queue.0.as_ptr());
        // SAFETY: both queues are alive during the calls; the partition keeps its own reference to the target.
        unsafe {
            native::rd_kafka_queue_forward(own.as_ptr(), target);
            native::rd_kafka_queue_destroy(own.as_ptr());
        }
    }
}

/// The metadata of entry `index`, as bytes: another tool may have committed something that is not UTF-8.
pub(super) fn metadata(list: &TopicPartitionList, index: usize) -> Vec<u8> {
    if index >= list.count() {
        return Vec::new();
    }
    // SAFETY: `index` is inside the list, which has `cnt` initialised elements and lives during the copy.
    let entry = unsafe { &*(*list.ptr()).elems.add(index) };
    if entry.metadata.is_null() {
        return Vec::new();
    }
    // SAFETY: librdkafka sets pointer and size together; the bytes are copied before the list can change.
    unsafe { std::slice::from_raw_parts(entry.metadata.cast::<u8>(), entry.metadata_size) }.to_vec()
}

/// Frees a native value when it goes out of scope.
struct Freed<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Freed<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: every Freed below is made from a pointer just returned by the constructor that pairs with the function.
            unsafe { (self.1)(self.0) }
        }
    }
}

/// The id of `topic`, base64 as Kafka prints it; `None` where the broker gives none. Waits up to `wait`.
pub(super) fn topic_id<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    wait: Duration,
) -> Result<Option<String>, String> {
    let name = CString::new(topic).map_err(|_| "a topic name holds no zero byte".to_string())?;
    let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    let client = consumer.client().native_ptr();
    let mut names = [name.as_ptr()];
    // SAFETY: `client` is valid while `consumer` lives; each result is freed by its own destructor when this returns,
    // the event first and the queue last; the names are copied by librdkafka.
    let (queue, topics, options) = unsafe {
        (
            Freed(native::rd_kafka_queue_new(client), native::rd_kafka_queue_destroy),
            Freed(
                native::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1),
                native::rd_kafka_TopicCollection_destroy,
            ),
            Freed(
                native::rd_kafka_AdminOptions_new(
                    client,
                    native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
                ),
                native::rd_kafka_AdminOptions_destroy,
            ),
        )
    };
    // SAFETY: all pointers are alive; a null error buffer of size 0 is allowed; the poll returns null or an event of ours.
    let event = unsafe {
        native::rd_kafka_AdminOptions_set_request_timeout(options.0, wait_ms, ptr::null_mut(), 0);
        native::rd_kafka_DescribeTopics(client, topics.0, options.0, queue.0);
        Freed(native::rd_kafka_queue_poll(queue.0, wait_ms), native::rd_kafka_event_destroy)
    };
    if event.0.is_null() {
        return Err(format!("no description of topic {topic} within {} s", wait.as_secs()));
    }
    // SAFETY: the event is not null; a wrong type gives a null result, checked below.
    let (code, result) =
        unsafe { (native::rd_kafka_event_error(event.0), native::rd_kafka_event_DescribeTopics_result(event.0)) };
    if code != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || result.is_null() {
        return Err(format!("describe topic {topic}: {}", RDKafkaErrorCode::from(code)));
    }
    let mut count = 0;
    // SAFETY: the result lives as long as the event; the array has `count` valid pointers.
    let descriptions = unsafe { native::rd_kafka_DescribeTopics_result_topics(result, &mut count) };
    if descriptions.is_null() || count == 0 {
        return Ok(None);
    }
    // SAFETY: the array has at least one entry, valid while the event lives; error and id belong to it.
    let (code, id) = unsafe {
        let description = *descriptions;
        let error = native::rd_kafka_TopicDescription_error(description);
        (native::rd_kafka_error_code(error), native::rd_kafka_TopicDescription_topic_id(description))
    };
    if code != native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Err(format!("describe topic {topic}: {}", RDKafkaErrorCode::from(code)));
    }
    // SAFETY: `id` is null or belongs to the description; the string belongs to the id and is copied at once.
    let text: Option<String> = unsafe {
        let text: *const c_char = if id.is_null() { ptr::null() } else { native::rd_kafka_Uuid_base64str(id) };
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    };
    Ok(text.filter(|text| !text.is_empty() && !text.starts_with("AAAAAAAAAAAAAAAAAAAAAA")))
}
