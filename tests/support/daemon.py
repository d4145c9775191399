"""The two tables as the daemon leaves them: its own keys, indexes, triggers, views and neighbours."""

from __future__ import annotations

from typing import Final

DAEMON_TABLES: Final = """
CREATE FUNCTION stamp_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.updated_at = now(); RETURN NEW; END $$;

CREATE TABLE files (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL);
CREATE TABLE batches (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), file_id uuid REFERENCES files (id) ON DELETE SET NULL,
    created_by text NOT NULL DEFAULT ''
);
CREATE TABLE request_templates (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    file_id uuid REFERENCES files (id) ON DELETE SET NULL,
    endpoint text NOT NULL, method text NOT NULL, path text NOT NULL, body text NOT NULL DEFAULT '',
    model text NOT NULL, api_key text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    custom_id text, line_number integer NOT NULL DEFAULT 0, body_byte_size bigint NOT NULL DEFAULT 0
);
CREATE INDEX d_templates_line ON request_templates (file_id, line_number);
CREATE INDEX d_templates_model ON request_templates (model);

CREATE TABLE requests (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    batch_id uuid REFERENCES batches (id) ON DELETE SET NULL,
    template_id uuid REFERENCES request_templates (id) ON DELETE SET NULL,
    state text NOT NULL DEFAULT 'pending', retry_attempt integer NOT NULL DEFAULT 0, not_before timestamptz,
    daemon_id uuid, claimed_at timestamptz, started_at timestamptz,
    response_status smallint, response_body text, completed_at timestamptz,
    error text, failed_at timestamptz, canceled_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    custom_id text, model text NOT NULL, response_size bigint NOT NULL DEFAULT 0,
    routed_model text, service_tier text, created_by text,
    CONSTRAINT state_check CHECK (state IN ('pending', 'claimed', 'processing', 'completed', 'failed', 'canceled')),
    CONSTRAINT failed_fields_check CHECK (state <> 'failed' OR (error IS NOT NULL AND failed_at IS NOT NULL)),
    CONSTRAINT requests_service_tier_check CHECK (service_tier IN ('auto', 'default', 'flex', 'priority'))
);
ALTER TABLE requests
    ADD CONSTRAINT requests_attribution_xor CHECK ((batch_id IS NULL) <> (created_by IS NULL)) NOT VALID;
COMMENT ON COLUMN requests.response_size IS 'for the sizes of output files';
CREATE INDEX d_requests_state ON requests (state);
CREATE INDEX d_requests_batch ON requests (batch_id, state) INCLUDE (response_size);
CREATE INDEX d_requests_template ON requests (template_id);
CREATE INDEX d_requests_age ON requests (created_at DESC, id DESC, service_tier);
CREATE INDEX d_requests_owner ON requests (created_by, created_at DESC, id DESC, service_tier)
    WHERE created_by IS NOT NULL;
CREATE INDEX d_requests_order ON requests (
    (CASE state WHEN 'processing' THEN 0 WHEN 'claimed' THEN 1 ELSE 2 END), created_at DESC, id DESC
);
CREATE INDEX d_requests_open ON requests (model, batch_id) WHERE state = 'pending' AND template_id IS NOT NULL;

CREATE TABLE steps (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    request_id uuid NOT NULL REFERENCES requests (id) ON DELETE CASCADE
);
CREATE TRIGGER stamp BEFORE UPDATE ON requests FOR EACH ROW EXECUTE FUNCTION stamp_change();
CREATE TRIGGER stamp BEFORE UPDATE ON request_templates FOR EACH ROW EXECUTE FUNCTION stamp_change();
CREATE VIEW open_requests AS SELECT * FROM requests WHERE state IN ('pending', 'claimed', 'processing');
ALTER TABLE requests SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000);

INSERT INTO files (name) VALUES ('input.jsonl');
INSERT INTO batches (file_id) SELECT id FROM files;
INSERT INTO request_templates (file_id, endpoint, method, path, model, api_key)
    SELECT id, 'http://up', 'POST', '/v1/chat/completions', 'm', '' FROM files;
INSERT INTO requests (batch_id, template_id, model, service_tier)
    SELECT b.id, t.id, 'm', 'flex' FROM batches b, request_templates t;
"""
"""What the daemon's own migrations leave, with a batch in it."""
