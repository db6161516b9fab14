use super::*;
use crate::spec::TranscriptLimits;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

const LIMITS: TranscriptLimits = TranscriptLimits {
    head_bytes: 10_000,
    tail_bytes: 20_000,
};

/// Output in which every byte tells where it is.
fn sample(offset: u64, length: usize) -> Vec<u8> {
    (offset..offset + length as u64)
        .map(|at| (at % 251) as u8 ^ (at / 251) as u8)
        .collect()
}

fn all(dir: &Path, limit: usize) -> (Vec<Chunk>, Page) {
    let mut reader = Reader::new(dir);
    let (mut chunks, mut missing, mut at) = (Vec::new(), 0, 0);
    loop {
        let mut page = reader.read(at, limit).unwrap();
        missing += page.missing_bytes;
        chunks.append(&mut page.chunks);
        if page.next_offset == at {
            page.missing_bytes = missing;
            return (chunks, page);
        }
        at = page.next_offset;
    }
}

fn assert_true(chunks: &[Chunk]) {
    for chunk in chunks {
        assert!(
            chunk.bytes == sample(chunk.offset, chunk.bytes.len()),
            "{}",
            chunk.offset
        );
    }
}

#[test]
fn first_and_last_are_kept_and_the_rest_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("transcript");
    for (total, chunk) in [(500, 7), (29_000, 100), (1_000_000, 333), (1_000_000, 200_000)] {
        let mut writer = Writer::create(&path, LIMITS).unwrap();
        let mut at = 0;
        while at < total {
            let length = chunk.min(total - at);
            writer.push(OutputStream::Stdout, 5, &sample(at as u64, length));
            at += length;
        }
        let totals = writer.finish().unwrap();
        assert_eq!(totals.output_bytes, total as u64);
        let disk: u64 = fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(disk < 30_000 + 70_000 + 8_000, "{disk}");
        for limit in [1_000, 1_000_000] {
            let (chunks, last) = all(&path, limit);
            assert_true(&chunks);
            let kept: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
            assert_eq!(kept as u64 + last.missing_bytes, totals.output_bytes);
            assert_eq!(last.missing_bytes, totals.missing_bytes);
            assert!(last.ended);
            assert!(kept >= total.min(30_000), "{kept}");
            let head: usize = chunks
                .iter()
                .scan(0, |end, chunk| {
                    let joined = chunk.offset == *end;
                    *end += chunk.bytes.len() as u64;
                    joined.then_some(chunk.bytes.len())
                })
                .sum();
            assert!(head >= total.min(10_000));
            let last = chunks.last().unwrap();
            assert_eq!(last.offset + last.bytes.len() as u64, totals.output_bytes);
        }
        fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn pages_begin_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(dir.path(), LIMITS);
    writer.push(OutputStream::Stdout, 1, b"hello ");
    writer.push(OutputStream::Stderr, 2, b"world");
    let mut reader = Reader::new(dir.path());
    let page = reader.read(3, 4).unwrap();
    let texts: Vec<_> = page
        .chunks
        .iter()
        .map(|chunk| (chunk.offset, chunk.wall_ms, chunk.stream, &chunk.bytes[..]))
        .collect();
    assert_eq!(
        texts,
        [
            (3, 1, OutputStream::Stdout, &b"lo "[..]),
            (6, 2, OutputStream::Stderr, b"w")
        ]
    );
    assert_eq!((page.next_offset, page.ended), (7, false));
    assert_eq!(reader.read(7, 100).unwrap().chunks[0].bytes, b"orld");
    assert_eq!(reader.read(0, 5).unwrap().chunks[0].bytes, b"hello");
    assert_eq!(
        reader.read(11, 5).unwrap(),
        Page {
            next_offset: 11,
            ..Page::default()
        }
    );
    assert_eq!(reader.read(99, 5).unwrap().next_offset, 99);
    assert!(
        Reader::new(&dir.path().join("none"))
            .read(0, 10)
            .unwrap()
            .chunks
            .is_empty()
    );
}

#[test]
fn a_torn_frame_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(dir.path(), LIMITS);
    writer.push(OutputStream::Stdout, 1, &sample(0, 100));
    let segment = dir.path().join(segment_name(0));
    let whole = fs::read(&segment).unwrap();
    for cut in 0..whole.len() {
        let mut file = OpenOptions::new().append(true).open(&segment).unwrap();
        file.write_all(&whole[..cut]).unwrap();
        let (chunks, page) = all(dir.path(), 1000);
        assert_eq!((chunks.len(), page.next_offset, page.ended), (1, 100, false));
        file.set_len(whole.len() as u64).unwrap();
    }
    fs::write(&segment, [&whole[..], &[0; 4096]].concat()).unwrap();
    assert_eq!(all(dir.path(), 1000).1.next_offset, 100);
}

#[test]
fn what_cannot_be_written_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("transcript");
    let mut writer = Writer::create(&path, LIMITS).unwrap();
    writer.push(OutputStream::Stdout, 1, &sample(0, 100));
    writer.close();
    // The next segment's name is taken by something that cannot be written.
    fs::create_dir(path.join(segment_name(100))).unwrap();
    writer.push(OutputStream::Stdout, 1, &sample(100, 50));
    assert!(writer.take_error().is_some());
    fs::remove_dir(path.join(segment_name(100))).unwrap();
    writer.retry_at = None;
    writer.push(OutputStream::Stdout, 1, &sample(150, 50));
    assert_eq!(
        writer.finish().unwrap(),
        Totals {
            output_bytes: 200,
            missing_bytes: 50
        }
    );
    let (chunks, page) = all(&path, 1000);
    assert_true(&chunks);
    assert_eq!(
        chunks.iter().map(|chunk| chunk.offset).collect::<Vec<_>>(),
        [0, 150]
    );
    assert_eq!((page.next_offset, page.missing_bytes), (200, 50));
}

#[tokio::test]
async fn a_reader_follows_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let total = 3_000_000;
    let writer = tokio::task::spawn_blocking(move || {
        let mut writer = Writer::new(
            &path,
            TranscriptLimits {
                head_bytes: 100_000,
                tail_bytes: 100_000,
            },
        );
        for at in (0..total).step_by(1000) {
            writer.push(OutputStream::Stdout, 1, &sample(at, 1000));
        }
        writer.finish().unwrap()
    });
    let mut reader = Reader::new(dir.path());
    let (mut at, mut kept, mut missing) = (0, 0, 0);
    loop {
        let page = reader.read(at, 10_000).unwrap();
        assert_true(&page.chunks);
        kept += page
            .chunks
            .iter()
            .map(|chunk| chunk.bytes.len() as u64)
            .sum::<u64>();
        missing += page.missing_bytes;
        if page.ended {
            break;
        }
        if page.next_offset == at {
            let waited = reader.wait(Duration::from_secs(30));
            tokio::time::timeout(Duration::from_secs(20), waited)
                .await
                .unwrap()
                .unwrap();
        }
        at = page.next_offset;
    }
    assert_eq!(kept + missing, total);
    assert!(missing <= writer.await.unwrap().missing_bytes);
}
