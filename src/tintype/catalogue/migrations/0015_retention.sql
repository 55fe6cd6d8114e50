-- Which answers to idempotency keys are the oldest.

CREATE INDEX idempotency_created ON idempotency (created_at);
