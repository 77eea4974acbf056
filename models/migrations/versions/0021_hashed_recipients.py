"""Accounts that keep no clear number. Only an addition.

A process of the previous version would store clear numbers for such an account and ask for its ids by their pseudonyms.
So it is refused: every session of this version sets `ulak.hashes` (`ulak.models.database`), and one that does not may
insert nothing for an account with hashed recipients. Its transaction rolls back, so it makes no call and acknowledges
no push, and a process of this version does the work. Accounts with clear recipients are not affected, and a session of
this version pays only for reading the setting.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# In the order in which a worker that ends a fetch locks them, `accounts` last: the other way round each would wait for
# the other while workers are busy, time after time.
_WRITTEN = ("fetches", "calls", "delivery_status", "quarantine", "tracked_ids", "polls")


def upgrade() -> None:
    op.execute("""
        CREATE FUNCTION refuse_clear_recipients() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF EXISTS (SELECT FROM accounts WHERE id = NEW.account_id AND recipients = 'hashed') THEN
            RAISE EXCEPTION 'account % keeps no clear recipients, and this version of Ulak would store them',
              NEW.account_id;
          END IF;
          RETURN NEW;
        END $$
    """)
    for table in _WRITTEN:
        if table == "tracked_ids":
            op.add_column("tracked_ids", sa.Column("clear", JSONB(none_as_null=True)))
        op.execute(f"""
            CREATE TRIGGER refuse_clear_recipients BEFORE INSERT ON {table} FOR EACH ROW
            WHEN (current_setting('ulak.hashes', true) IS DISTINCT FROM 'on')
            EXECUTE FUNCTION refuse_clear_recipients()
        """)
    op.execute("""
        CREATE FUNCTION forget_clear_id() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          NEW.clear := NULL;
          NEW.answer_fingerprint := NULL;
          RETURN NEW;
        END $$
    """)
    op.execute("""
        CREATE TRIGGER forget_clear_id BEFORE INSERT OR UPDATE ON tracked_ids FOR EACH ROW
        WHEN (NEW.closed_at IS NOT NULL AND NEW.clear IS NOT NULL) EXECUTE FUNCTION forget_clear_id()
    """)
    op.add_column("accounts", sa.Column("recipients", sa.Text(), nullable=False, server_default=sa.text("'clear'")))
    op.add_column("accounts", sa.Column("recipients_key", sa.LargeBinary()))
    op.create_check_constraint("recipients_known", "accounts", "recipients IN ('clear', 'hashed')")
    op.create_check_constraint("hashed_with_key", "accounts", "(recipients = 'hashed') = (recipients_key IS NOT NULL)")


def downgrade() -> None:
    op.execute("""
        DO $$ BEGIN
          IF EXISTS (SELECT FROM accounts WHERE recipients = 'hashed') THEN
            RAISE EXCEPTION 'the version before cannot keep accounts with hashed recipients';
          END IF;
        END $$
    """)
    op.execute("DROP TRIGGER forget_clear_id ON tracked_ids")
    for table in _WRITTEN:
        op.execute(f"DROP TRIGGER refuse_clear_recipients ON {table}")
    op.execute("DROP FUNCTION forget_clear_id()")
    op.execute("DROP FUNCTION refuse_clear_recipients()")
    op.drop_column("tracked_ids", "clear")
    op.drop_column("accounts", "recipients_key")
    op.drop_column("accounts", "recipients")
