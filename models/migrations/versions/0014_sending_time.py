"""A time to group and filter by in every row, views for readers, and comments that explain it all.

Only additions. Workers of the previous version write rows without a time: a trigger gives it to them, and never fires
for a writer that knows the column. The next version's migration drops it. Rows stored earlier get theirs from upkeep,
in small transactions.
"""

from alembic import op

from ulak.models.views import create_views, drop_views, write_comments

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

CHECK = "ck_delivery_status_message_time_source_known"
VIEWS_AND_COMMENTS = "6e03e5a856da5504"
"""`ulak.models.views.fingerprint` of what this revision makes."""


def upgrade() -> None:
    # Where the table is large, the columns and their indexes may have been made before (docs/operations.md).
    op.execute("""
        ALTER TABLE delivery_status ADD COLUMN IF NOT EXISTS message_time timestamptz,
          ADD COLUMN IF NOT EXISTS message_time_source text
    """)
    # The next revision looks at the rows that there are, without keeping anybody waiting.
    op.execute(f"""
        ALTER TABLE delivery_status ADD CONSTRAINT {CHECK}
        CHECK (message_time_source IN ('own', 'order', 'first_seen')) NOT VALID
    """)
    op.execute("""
        CREATE FUNCTION set_message_time() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
          order_time timestamptz;
        BEGIN
          IF NEW.granularity = 'message' AND NEW.sent_at IS NULL THEN
            SELECT sent_at INTO order_time FROM delivery_status
            WHERE account_id = NEW.account_id AND granularity = 'order' AND provider_key = NEW.parent_key;
          END IF;
          NEW.message_time := coalesce(NEW.sent_at, order_time, NEW.first_seen_at);
          NEW.message_time_source := CASE WHEN NEW.sent_at IS NOT NULL THEN 'own'
            WHEN order_time IS NOT NULL THEN 'order' ELSE 'first_seen' END;
          RETURN NEW;
        END $$
    """)
    op.execute("""
        CREATE TRIGGER set_message_time_of_new BEFORE INSERT ON delivery_status FOR EACH ROW
        WHEN (NEW.message_time IS NULL) EXECUTE FUNCTION set_message_time()
    """)
    op.execute("""
        CREATE TRIGGER set_message_time_of_open BEFORE UPDATE ON delivery_status FOR EACH ROW
        WHEN (NOT (OLD.is_final AND NEW.is_final) AND NEW.sent_at IS NOT NULL
          AND NEW.message_time IS DISTINCT FROM NEW.sent_at)
        EXECUTE FUNCTION set_message_time()
    """)
    create_views(op.get_bind())
    write_comments(op.get_bind())


def downgrade() -> None:
    drop_views(op.get_bind())
    op.execute("DROP TRIGGER set_message_time_of_open ON delivery_status")
    op.execute("DROP TRIGGER set_message_time_of_new ON delivery_status")
    op.execute("DROP FUNCTION set_message_time()")
    op.drop_constraint(op.f(CHECK), "delivery_status")
    for column in ("message_time_source", "message_time"):
        op.drop_column("delivery_status", column)
