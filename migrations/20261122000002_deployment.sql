-- What the instances of one deployment share. Plain rows with a time to live: no advisory lock, so that
-- it also works behind a pooler.

CREATE TABLE service_instance (
    id      uuid        NOT NULL,
    seen_at timestamptz NOT NULL,
    CONSTRAINT service_instance_pkey PRIMARY KEY (id)
) WITH (fillfactor = 50);
COMMENT ON TABLE service_instance IS 'Instances of the service that are alive; they share the processors'' capacity';
COMMENT ON COLUMN service_instance.id IS 'Chosen by the instance at its start';
COMMENT ON COLUMN service_instance.seen_at IS 'Its last sign of life';

CREATE TABLE processor_health (
    processor            text        NOT NULL,
    failing              boolean,
    min_response_time_ms integer,
    answered_at          timestamptz,
    -- The leader row: whoever moves this forward has the next poll, for the whole deployment.
    next_poll_at         timestamptz NOT NULL DEFAULT 'epoch',
    poller               uuid,
    enabled              boolean     NOT NULL DEFAULT true,
    CONSTRAINT processor_health_pkey PRIMARY KEY (processor),
    CONSTRAINT processor_health_answer_is_whole CHECK (
        (failing IS NULL) = (min_response_time_ms IS NULL) AND (failing IS NULL) = (answered_at IS NULL)
    )
) WITH (fillfactor = 50);
COMMENT ON TABLE processor_health IS 'What all instances know of each processor: what it last said of its health, and whether it is in use';
COMMENT ON COLUMN processor_health.processor IS 'Name of the processor';
COMMENT ON COLUMN processor_health.failing IS 'Its own word: payments fail there; null: it has not answered yet';
COMMENT ON COLUMN processor_health.min_response_time_ms IS 'Its own word: the least time a payment takes there, in milliseconds';
COMMENT ON COLUMN processor_health.answered_at IS 'When it said so';
COMMENT ON COLUMN processor_health.next_poll_at IS 'Nobody polls before this time';
COMMENT ON COLUMN processor_health.enabled IS 'False: an operator has taken it out, nothing new is sent there';
COMMENT ON COLUMN processor_health.poller IS 'The instance that polls or polled last';
