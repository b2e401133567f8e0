"""The ledger's tables, and the statements that are longer than a line."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inputs (
    id INTEGER PRIMARY KEY,
    path BLOB NOT NULL UNIQUE,
    size_bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    state TEXT NOT NULL,
    verdict TEXT NOT NULL,
    code TEXT,
    message TEXT NOT NULL DEFAULT '',
    chunk INTEGER,
    position INTEGER,
    tries INTEGER NOT NULL DEFAULT 0,
    answer TEXT
);
-- Cutting asks for the next pending paths, counting for the number in each state: one index answers both.
CREATE INDEX IF NOT EXISTS inputs_by_state ON inputs (state, path);
CREATE INDEX IF NOT EXISTS inputs_by_chunk ON inputs (chunk, position) WHERE chunk IS NOT NULL;
CREATE TABLE IF NOT EXISTS chunks (serial INTEGER PRIMARY KEY AUTOINCREMENT, open INTEGER NOT NULL, model TEXT);
CREATE INDEX IF NOT EXISTS chunks_open ON chunks (serial) WHERE open;
CREATE TABLE IF NOT EXISTS sittings (id INTEGER PRIMARY KEY, worked_s REAL NOT NULL, settled INTEGER NOT NULL);
"""

# `verdict` is what the scan said. A file that looks the same to a later scan keeps its row, whatever became of it.
ADD = """
INSERT INTO inputs (path, size_bytes, mtime_ns, state, verdict, code, message) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (path) DO UPDATE SET
    size_bytes = excluded.size_bytes, mtime_ns = excluded.mtime_ns, state = excluded.state,
    verdict = excluded.verdict, code = excluded.code, message = excluded.message,
    chunk = NULL, position = NULL, tries = 0, answer = NULL
WHERE inputs.size_bytes <> excluded.size_bytes OR inputs.mtime_ns <> excluded.mtime_ns
    OR inputs.verdict <> excluded.verdict
"""
# Only what is still submitted under that chunk may change: an input that changed on disk has left it.
SETTLE = """
UPDATE inputs SET state = ?, code = ?, message = ?, answer = ?
WHERE chunk = ? AND position = ? AND state = 'submitted'
"""
RETRY = """
UPDATE inputs SET state = 'pending', chunk = NULL, position = NULL, tries = tries + 1
WHERE chunk = ? AND position = ? AND state = 'submitted' AND tries + 1 < ?
"""
RETRY_FAILED = """
UPDATE inputs SET state = 'pending', code = NULL, message = '', answer = NULL, tries = 0, chunk = NULL, position = NULL
WHERE state = 'failed' AND verdict = ''
"""
REDO = """
UPDATE inputs SET state = 'pending', answer = NULL, tries = 0, chunk = NULL, position = NULL
WHERE path = ? AND state = 'done'
"""
