"""The tables. Append only: a database knows by user_version how many MIGRATIONS it has been through."""

from __future__ import annotations

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE conversation (
            id INTEGER PRIMARY KEY,
            title TEXT NOT NULL DEFAULT '',
            model TEXT NOT NULL,
            system TEXT,
            created_at REAL NOT NULL,
            updated_at REAL NOT NULL
        )""",
        """CREATE TABLE message (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            conversation_id INTEGER NOT NULL REFERENCES conversation(id) ON DELETE CASCADE,
            role TEXT NOT NULL,
            content TEXT NOT NULL,
            partial INTEGER NOT NULL DEFAULT 0,
            created_at REAL NOT NULL
        )""",
        "CREATE INDEX message_by_conversation ON message(conversation_id, id)",
        "CREATE INDEX conversation_by_update ON conversation(updated_at)",
        "CREATE VIRTUAL TABLE message_text USING fts5(content, content='message', content_rowid='id')",
        """CREATE TRIGGER message_inserted AFTER INSERT ON message BEGIN
            INSERT INTO message_text(rowid, content) VALUES (new.id, new.content);
        END""",
        """CREATE TRIGGER message_deleted AFTER DELETE ON message BEGIN
            INSERT INTO message_text(message_text, rowid, content) VALUES ('delete', old.id, old.content);
        END""",
        """CREATE TRIGGER message_updated AFTER UPDATE OF content ON message BEGIN
            INSERT INTO message_text(message_text, rowid, content) VALUES ('delete', old.id, old.content);
            INSERT INTO message_text(rowid, content) VALUES (new.id, new.content);
        END""",
    ),
    (
        "ALTER TABLE conversation ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0",
        # Set while a deletion can still be undone.
        "ALTER TABLE conversation ADD COLUMN deleted_at REAL",
        "CREATE VIRTUAL TABLE title_text USING fts5(title, content='conversation', content_rowid='id')",
        "INSERT INTO title_text(title_text) VALUES ('rebuild')",
        """CREATE TRIGGER title_inserted AFTER INSERT ON conversation BEGIN
            INSERT INTO title_text(rowid, title) VALUES (new.id, new.title);
        END""",
        """CREATE TRIGGER title_deleted AFTER DELETE ON conversation BEGIN
            INSERT INTO title_text(title_text, rowid, title) VALUES ('delete', old.id, old.title);
        END""",
        """CREATE TRIGGER title_updated AFTER UPDATE OF title ON conversation BEGIN
            INSERT INTO title_text(title_text, rowid, title) VALUES ('delete', old.id, old.title);
            INSERT INTO title_text(rowid, title) VALUES (new.id, new.title);
        END""",
    ),
    (
        # The message before it on its branch; NULL for a first one. No cycle passes the check.
        "ALTER TABLE message ADD COLUMN parent_id INTEGER CHECK (parent_id < id)",
        """UPDATE message SET parent_id = (
            SELECT max(before.id) FROM message AS before
            WHERE before.conversation_id = message.conversation_id AND before.id < message.id
        )""",
        # The last message of the branch on the screen; NULL for the newest.
        "ALTER TABLE conversation ADD COLUMN leaf_id INTEGER",
        # JSON; NULL for the defaults of the settings.
        "ALTER TABLE conversation ADD COLUMN options TEXT",
        # NULL for a conversation that hasn't begun: any number of rows may have it, for all UNIQUE says.
        """CREATE TABLE draft (
            conversation_id INTEGER UNIQUE REFERENCES conversation(id) ON DELETE CASCADE,
            content TEXT NOT NULL
        )""",
    ),
)
