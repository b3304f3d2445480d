-- What was, minute by minute, for whoever comes after an alarm. Each instance adds one row a minute and removes what is
-- too old; what was settled is in payment_rollup.

CREATE TABLE service_minute (
    minute           timestamptz      NOT NULL,
    instance         uuid             NOT NULL,
    observed_seconds integer          NOT NULL,
    accepted         bigint           NOT NULL,
    refused          bigint           NOT NULL,
    queued           bigint,
    p50_ms           double precision,
    p99_ms           double precision,
    processors       jsonb            NOT NULL,
    CONSTRAINT service_minute_pkey PRIMARY KEY (minute, instance),
    CONSTRAINT service_minute_is_one CHECK (date_trunc('minute', minute, 'UTC') = minute),
    CONSTRAINT service_minute_was_observed CHECK (observed_seconds > 0),
    CONSTRAINT service_minute_counts CHECK (accepted >= 0 AND refused >= 0 AND queued >= 0)
);
COMMENT ON TABLE service_minute IS 'What each instance saw in each minute of the last two days; a minute without a row was seen by nobody';
COMMENT ON COLUMN service_minute.minute IS 'When the minute began, by the clock of the database';
COMMENT ON COLUMN service_minute.instance IS 'The instance that saw it';
COMMENT ON COLUMN service_minute.observed_seconds IS 'Seconds of the minute in which that instance ran';
COMMENT ON COLUMN service_minute.accepted IS 'Payments that it accepted';
COMMENT ON COLUMN service_minute.refused IS 'Posts that it answered with 503: the queue was full, the database was away, or it must not serve';
COMMENT ON COLUMN service_minute.queued IS 'The longest queue of the whole deployment that it saw; null: the database did not answer at the end of the minute';
COMMENT ON COLUMN service_minute.p50_ms IS 'Milliseconds from acceptance until half of the payments of that minute were settled, of all instances, by a sample; null: none was';
COMMENT ON COLUMN service_minute.p99_ms IS 'The same of 99 per cent of them';
COMMENT ON COLUMN service_minute.processors IS 'By processor, for how many seconds its breaker was open and half open here, and it was switched off';

DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'auditor') THEN
        GRANT SELECT ON service_minute TO auditor;
    END IF;
END $$;
