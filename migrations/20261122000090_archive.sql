-- Old months move out of the books, to a file: `payment-proxy archive`. Whatever moves is taken out of
-- payment_processed, and so by its triggers out of payment_rollup, and put down here in the same transaction.
-- So payment_rollup is always what payment_processed adds up to, and both with these tables are all that was
-- ever settled.

-- A payment that is posted again must still be known, for ever: it was charged.
CREATE TABLE payment_archived (
    correlation_id uuid          NOT NULL,
    amount         numeric(14,2) NOT NULL,
    month          date          NOT NULL,
    CONSTRAINT payment_archived_pkey PRIMARY KEY (correlation_id)
);
COMMENT ON TABLE payment_archived IS 'Settled payments that are in a file and not in payment_processed any more';
COMMENT ON COLUMN payment_archived.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN payment_archived.amount IS 'What was charged';
COMMENT ON COLUMN payment_archived.month IS 'First day of the month (UTC) of requested_at; payment_archived_month has its file';

CREATE TABLE payment_archived_hour (
    starts_at timestamptz   NOT NULL,
    processor text          NOT NULL,
    requests  bigint        NOT NULL,
    amount    numeric(20,2) NOT NULL,
    CONSTRAINT payment_archived_hour_pkey PRIMARY KEY (starts_at, processor)
);
COMMENT ON TABLE payment_archived_hour IS 'Totals of the archived payments by hour of requested_at; nothing finer is known of them here';
COMMENT ON COLUMN payment_archived_hour.starts_at IS 'The first moment of the hour, in UTC';
COMMENT ON COLUMN payment_archived_hour.processor IS 'The processor that charged';
COMMENT ON COLUMN payment_archived_hour.requests IS 'Number of payments';
COMMENT ON COLUMN payment_archived_hour.amount IS 'Their sum';

CREATE TABLE payment_archived_month (
    month       date          NOT NULL,
    file        text          NOT NULL,
    sha256      text          NOT NULL,
    requests    bigint        NOT NULL,
    amount      numeric(20,2) NOT NULL,
    exported_at timestamptz   NOT NULL DEFAULT clock_timestamp(),
    -- Null: some of what is in the file may still be in the books. `payment-proxy archive` goes on there.
    moved_at    timestamptz,
    CONSTRAINT payment_archived_month_pkey PRIMARY KEY (month),
    CONSTRAINT payment_archived_month_is_a_first_day CHECK (extract(day FROM month) = 1)
);
COMMENT ON TABLE payment_archived_month IS 'Months whose payments were written to a file, which was read back and found to be equal to the totals';
COMMENT ON COLUMN payment_archived_month.month IS 'First day of the month (UTC)';
COMMENT ON COLUMN payment_archived_month.file IS 'Name of the file';
COMMENT ON COLUMN payment_archived_month.sha256 IS 'SHA-256 of what is in it, in hexadecimal';
COMMENT ON COLUMN payment_archived_month.requests IS 'Number of payments in it';
COMMENT ON COLUMN payment_archived_month.amount IS 'Their sum';
COMMENT ON COLUMN payment_archived_month.exported_at IS 'When it was found to be complete';
COMMENT ON COLUMN payment_archived_month.moved_at IS 'When the last of them had left payment_processed; null: not yet';

-- As before, but payments that are archived are in the books, too.
CREATE OR REPLACE FUNCTION accept_payments(
    ids uuid[], amounts numeric[], claimed_for text, lease interval, late_charge interval, traceparents text[],
    OUT queued_ids uuid[], OUT queued_rows bigint[], OUT moment timestamptz, OUT stamp timestamptz,
    OUT booked_ids uuid[], OUT booked_amounts numeric[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    lease_end CONSTANT timestamptz := coalesce(now() + CASE WHEN claimed_for IS NOT NULL THEN lease END, '-infinity');
    doubt_end CONSTANT timestamptz := CASE WHEN claimed_for IS NOT NULL THEN now() + lease + late_charge END;
    attempts  CONSTANT integer := CASE WHEN claimed_for IS NULL THEN 0 ELSE 1 END;
BEGIN
    moment := clock_timestamp();
    stamp := CASE WHEN claimed_for IS NOT NULL THEN date_trunc('milliseconds', moment) END;
    WITH queued AS (
        INSERT INTO payment_queue
            (correlation_id, amount, accepted_at, lease_until, attempt, processor, requested_at, doubt_until, traceparent)
        SELECT i.id, i.amount, moment, lease_end, attempts, claimed_for, stamp, doubt_end, i.traceparent
        FROM unnest(ids, amounts, traceparents) AS i (id, amount, traceparent)
        ON CONFLICT ON CONSTRAINT payment_queue_correlation_id_key DO NOTHING
        RETURNING correlation_id, id
    )
    SELECT array_agg(q.correlation_id), array_agg(q.id) INTO queued_ids, queued_rows FROM queued q;
    SELECT array_agg(b.correlation_id), array_agg(b.amount) INTO booked_ids, booked_amounts FROM (
        SELECT p.correlation_id, p.amount FROM payment_processed p WHERE p.correlation_id = ANY (ids)
        UNION ALL
        SELECT d.correlation_id, d.amount FROM payment_dead_letter d WHERE d.correlation_id = ANY (ids)
        UNION ALL
        SELECT a.correlation_id, a.amount FROM payment_archived a WHERE a.correlation_id = ANY (ids)
    ) b;
    IF booked_ids IS NOT NULL THEN
        DELETE FROM payment_queue q WHERE q.id = ANY (queued_rows) AND q.correlation_id = ANY (booked_ids);
    END IF;
END
$$;

CREATE OR REPLACE VIEW audit.payment AS
SELECT correlation_id, 'settled' AS state, amount, accepted_at, processor, requested_at, settled_at AS ended_at,
    attempt AS claims, NULL AS reason
FROM payment_processed
UNION ALL
SELECT correlation_id, 'dead', amount, accepted_at, processor, requested_at, died_at, attempt, reason
FROM payment_dead_letter
UNION ALL
SELECT correlation_id,
    CASE WHEN processor IS NULL THEN 'queued' WHEN lease_until > now() THEN 'in flight' ELSE 'in doubt' END,
    amount, accepted_at, processor, requested_at, NULL, attempt, NULL
FROM payment_queue
UNION ALL
SELECT correlation_id, 'archived', amount, NULL, NULL, NULL, NULL, NULL, NULL
FROM payment_archived;
COMMENT ON COLUMN audit.payment.state IS 'queued: no processor can have charged it; in flight: a processor is being asked; in doubt: that processor may have charged it and will be asked; settled: charged; archived: charged in a month that is in a file, where the rest about it is; dead: refused for good';
COMMENT ON COLUMN audit.payment.accepted_at IS 'When the payment was accepted; null where it is archived';
COMMENT ON COLUMN audit.payment.claims IS 'How often a worker has taken it up; null where it is archived';

CREATE OR REPLACE FUNCTION audit.life(payment_id uuid)
RETURNS TABLE (at timestamptz, event text, processor text, requested_at timestamptz, claim integer, detail text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT e.at, e.event, e.processor, e.requested_at, e.claim, e.detail FROM (
        SELECT 1 AS step, p.accepted_at AS at, 'accepted' AS event, NULL AS processor, NULL::timestamptz AS requested_at,
            NULL::integer AS claim, 'amount ' || p.amount AS detail
        FROM audit.payment p WHERE p.correlation_id = payment_id AND p.accepted_at IS NOT NULL
        UNION ALL
        SELECT 2, a.requested_at, 'claimed', a.processor, a.requested_at, min(a.first_claim), NULL
        FROM audit.attempt a WHERE a.correlation_id = payment_id GROUP BY a.processor, a.requested_at
        UNION ALL
        SELECT 3, a.first_ended_at, a.outcome, a.processor, a.requested_at, a.first_claim,
            a.reason || CASE WHEN a.last_claim > a.first_claim
                THEN format(' (so until claim %s, recorded %s)', a.last_claim, a.last_ended_at) ELSE '' END
        FROM audit.attempt a WHERE a.correlation_id = payment_id AND a.outcome NOT IN ('charged', 'open')
        UNION ALL
        SELECT 4, p.ended_at, p.state, p.processor, p.requested_at, p.claims, p.reason
        FROM audit.payment p WHERE p.correlation_id = payment_id AND p.ended_at IS NOT NULL
        UNION ALL
        SELECT 5, m.exported_at, 'archived', NULL, NULL, NULL, 'amount ' || a.amount || ', settled; the rest is in ' || m.file
        FROM payment_archived a JOIN payment_archived_month m USING (month) WHERE a.correlation_id = payment_id
    ) AS e
    ORDER BY date_trunc('milliseconds', e.at), e.step, e.at;
END;
COMMENT ON FUNCTION audit.life IS 'What happened to the payment with the id payment_id, in order: accepted; claimed for a processor; what came of it, unless it was the charge; settled or dead; of an archived one, which file has it';

-- An error is better than a number that is wrong.
CREATE FUNCTION audit.refuse_part_of_hour(hour timestamptz) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RAISE EXCEPTION 'the single payments of the hour from % are archived: only all of it can be added up', hour
        USING HINT = 'Begin and end with a whole hour, such as 12:00:00 to 12:59:59.999999 UTC, or restore that month';
END $$;
COMMENT ON FUNCTION audit.refuse_part_of_hour IS 'Raises an error: a question was about a part of that hour, of which only the totals are left';

-- As before, with the archived hours.
CREATE OR REPLACE FUNCTION audit.summary(from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL)
RETURNS TABLE (processor text, total_requests bigint, total_amount numeric)
LANGUAGE sql STABLE
-- By key, however little the planner knows of tables that grow fast.
SET enable_seqscan = off
BEGIN ATOMIC
    WITH range AS MATERIALIZED (
        SELECT a0, z0, a1, z1, a2, z2, a3, z3
        FROM (
            SELECT coalesce(from_time, '-infinity') AS a0, coalesce(to_time + interval '1 microsecond', 'infinity') AS z0
        ) AS r
        CROSS JOIN LATERAL (
            SELECT date_trunc('second', a0 + interval '0.999999 s', 'UTC') AS a, date_trunc('second', z0, 'UTC') AS z
        ) AS s
        CROSS JOIN LATERAL (
            SELECT CASE WHEN s.a < s.z THEN s.a ELSE z0 END AS a1, CASE WHEN s.a < s.z THEN s.z ELSE z0 END AS z1
        ) AS s1
        CROSS JOIN LATERAL (
            SELECT date_trunc('minute', a1 + interval '59.999999 s', 'UTC') AS a, date_trunc('minute', z1, 'UTC') AS z
        ) AS m
        CROSS JOIN LATERAL (
            SELECT CASE WHEN m.a < m.z THEN m.a ELSE z1 END AS a2, CASE WHEN m.a < m.z THEN m.z ELSE z1 END AS z2
        ) AS m1
        CROSS JOIN LATERAL (
            SELECT date_trunc('hour', a2 + interval '59:59.999999' MINUTE TO SECOND, 'UTC') AS a, date_trunc('hour', z2, 'UTC') AS z
        ) AS h
        CROSS JOIN LATERAL (
            SELECT CASE WHEN h.a < h.z THEN h.a ELSE z2 END AS a3, CASE WHEN h.a < h.z THEN h.z ELSE z2 END AS z3
        ) AS h1
    ), piece AS (
        SELECT unit, starts_at, ends_at FROM range CROSS JOIN LATERAL (
            VALUES ('hour', a3, z3), ('minute', a2, a3), ('minute', z3, z2), ('second', a1, a2), ('second', z2, z1)
        ) AS v (unit, starts_at, ends_at)
    ), edge AS (
        SELECT starts_at, ends_at FROM range CROSS JOIN LATERAL (VALUES (a0, a1), (z1, z0)) AS v (starts_at, ends_at)
    ), part AS (
        SELECT r.processor, r.requests, r.amount, false AS configured
        FROM piece p JOIN payment_rollup r ON r.unit = p.unit AND r.starts_at >= p.starts_at AND r.starts_at < p.ends_at
        UNION ALL
        SELECT b.processor, 1, b.amount, false
        FROM edge e JOIN payment_processed b ON b.requested_at >= e.starts_at AND b.requested_at < e.ends_at
        UNION ALL
        SELECT h.processor, h.requests, h.amount, false
        FROM piece p JOIN payment_archived_hour h
            ON p.unit = 'hour' AND h.starts_at >= p.starts_at AND h.starts_at < p.ends_at
        UNION ALL
        SELECT audit.refuse_part_of_hour(h.starts_at), 0, 0, true
        FROM (
            SELECT p.starts_at, p.ends_at FROM piece p WHERE p.unit <> 'hour' UNION ALL SELECT e.starts_at, e.ends_at FROM edge e
        ) AS cut JOIN payment_archived_hour h
            ON h.starts_at > cut.starts_at - interval '1 hour' AND h.starts_at < cut.ends_at AND cut.starts_at < cut.ends_at
        UNION ALL
        SELECT f.processor, 0, 0, true FROM processor_fee f
    )
    SELECT part.processor, sum(part.requests)::bigint, sum(part.amount)
    FROM part GROUP BY part.processor HAVING sum(part.requests) <> 0 OR bool_or(part.configured)
    ORDER BY part.processor;
END;
COMMENT ON FUNCTION audit.summary IS 'What GET /payments-summary says: payments (total_requests) and their sum (total_amount) by processor, with requested_at from from_time to to_time, both included, null for an open end. Processors that were ever configured are there with 0. An error where the range begins or ends inside of an hour that is archived';

CREATE OR REPLACE FUNCTION audit.totals(unit text, from_time timestamptz, to_time timestamptz)
RETURNS TABLE (starts_at timestamptz, processor text, payments bigint, amount numeric)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT date_trunc(totals.unit, r.starts_at, 'UTC'), r.processor, sum(r.requests)::bigint, sum(r.amount)
    FROM (
        SELECT p.starts_at, p.processor, p.requests, p.amount
        FROM payment_rollup p
        WHERE p.unit = CASE WHEN totals.unit IN ('second', 'minute') THEN totals.unit ELSE 'hour' END
            AND p.starts_at >= date_trunc(totals.unit, from_time, 'UTC') AND p.starts_at < to_time
        UNION ALL
        SELECT h.starts_at, CASE WHEN totals.unit IN ('second', 'minute') THEN audit.refuse_part_of_hour(h.starts_at) ELSE h.processor END,
            h.requests, h.amount
        FROM payment_archived_hour h
        WHERE h.starts_at > date_trunc(totals.unit, from_time, 'UTC')
                - CASE WHEN totals.unit IN ('second', 'minute') THEN interval '1 hour' ELSE interval '1 microsecond' END
            AND h.starts_at < to_time
    ) AS r
    GROUP BY 1, 2 HAVING sum(r.requests) <> 0
    ORDER BY 1, 2;
END;
COMMENT ON FUNCTION audit.totals IS 'Number and sum of the payments by processor and interval of requested_at, in UTC. unit: second, minute, hour, day, week or month; from_time: the first interval is the one that it is in; to_time: intervals begin before it. Intervals without payments are left out. An error for seconds and minutes of hours that are archived';

CREATE OR REPLACE FUNCTION audit.fees_by_day(first_day date, last_day date)
RETURNS TABLE (day date, processor text, fee_share numeric, payments bigint, amount numeric, fee numeric, net numeric)
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH share AS (
        SELECT f.processor, f.valid_from, f.valid_until, f.fee FROM audit.fee f
        UNION ALL
        -- In the books, and never configured since fees are recorded.
        SELECT DISTINCT r.processor, '-infinity'::timestamptz, 'infinity'::timestamptz, NULL::numeric
        FROM (
            SELECT p.processor FROM payment_rollup p WHERE p.unit = 'hour'
            UNION ALL SELECT h.processor FROM payment_archived_hour h
        ) AS r
        WHERE NOT EXISTS (SELECT FROM processor_fee f WHERE f.processor = r.processor)
    )
    SELECT d.day, share.processor, share.fee, s.total_requests, s.total_amount,
        s.total_amount * share.fee, s.total_amount * (1 - share.fee)
    FROM (
        SELECT n.day::date AS day, n.day AT TIME ZONE 'UTC' AS begins, (n.day + interval '1 day') AT TIME ZONE 'UTC' AS ends
        FROM generate_series(first_day::timestamp, last_day::timestamp, interval '1 day') AS n (day)
    ) AS d
    JOIN share ON share.valid_from < d.ends AND share.valid_until > d.begins
    CROSS JOIN LATERAL audit.summary(
        greatest(d.begins, share.valid_from), least(d.ends, share.valid_until) - interval '1 microsecond'
    ) AS s
    WHERE s.processor = share.processor AND s.total_requests > 0
    ORDER BY d.day, share.processor, share.valid_from;
END;
