-- What `payment-proxy reconcile` found, for whoever asks later: `status`, the page, auditors.

CREATE TABLE reconcile_run (
    id            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    began_at      timestamptz NOT NULL,
    ended_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    from_time     timestamptz,
    to_time       timestamptz,
    compared      bigint      NOT NULL,
    differ        bigint      NOT NULL,
    repaired      bigint      NOT NULL,
    not_known     bigint      NOT NULL,
    archived      bigint      NOT NULL,
    totals_differ text[]      NOT NULL
);
COMMENT ON TABLE reconcile_run IS 'Runs of payment-proxy reconcile that came to their end';
COMMENT ON COLUMN reconcile_run.id IS 'Number of the run';
COMMENT ON COLUMN reconcile_run.began_at IS 'When it began';
COMMENT ON COLUMN reconcile_run.ended_at IS 'When it ended';
COMMENT ON COLUMN reconcile_run.from_time IS 'The first requested_at that it compared; null: no limit';
COMMENT ON COLUMN reconcile_run.to_time IS 'The last requested_at that it compared; null: no limit';
COMMENT ON COLUMN reconcile_run.compared IS 'Payments that were compared with every processor they may be at';
COMMENT ON COLUMN reconcile_run.differ IS 'Payments that differ, those that were repaired included';
COMMENT ON COLUMN reconcile_run.repaired IS 'Payments that were repaired';
COMMENT ON COLUMN reconcile_run.not_known IS 'Payments that a processor they may be at was not asked for, or did not answer for';
COMMENT ON COLUMN reconcile_run.archived IS 'Payments of the range that are archived, and so not compared one by one';
COMMENT ON COLUMN reconcile_run.totals_differ IS 'Processors whose totals are not the ledger''s';

CREATE TABLE reconcile_finding (
    correlation_id uuid        NOT NULL,
    kind           text        NOT NULL,
    recorded_by    text,
    charged_by     text[]      NOT NULL,
    detail         text        NOT NULL,
    found_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT reconcile_finding_pkey PRIMARY KEY (correlation_id),
    CONSTRAINT reconcile_finding_kind_is_known CHECK (kind IN ('charged twice', 'not charged', 'not recorded',
        'other processor', 'other requested_at', 'other amount'))
);
COMMENT ON TABLE reconcile_finding IS 'Payments of which ledger and processors differed when payment-proxy reconcile compared them last';
COMMENT ON COLUMN reconcile_finding.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN reconcile_finding.kind IS 'What differs';
COMMENT ON COLUMN reconcile_finding.recorded_by IS 'The processor that the ledger names; null: it is not settled there';
COMMENT ON COLUMN reconcile_finding.charged_by IS 'The processors that say that they charged it';
COMMENT ON COLUMN reconcile_finding.detail IS 'The difference in words';
COMMENT ON COLUMN reconcile_finding.found_at IS 'When it was found last';

-- As before; what was found of payments that are gone is gone with them.
CREATE OR REPLACE FUNCTION payment_rollup_clear() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    TRUNCATE payment_rollup;
    DELETE FROM reconcile_finding;
    RETURN NULL;
END $$;
