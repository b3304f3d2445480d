-- Every question of an auditor that makes no sense is an error, those included whose answer was an empty table.

-- They return true, so that a query asks them once, in its WHERE.
DROP FUNCTION audit.refuse_upside_down(timestamptz, timestamptz);
CREATE FUNCTION audit.refuse_upside_down(first timestamptz, last timestamptz) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF first > last THEN
        RAISE EXCEPTION 'the range is upside down: it begins at % and ends at %', first, last
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION audit.refuse_upside_down IS 'Raises an error where first is after last; true otherwise';

DROP FUNCTION audit.refuse_null(text, boolean);
CREATE FUNCTION audit.refuse_null(argument text, is_null boolean) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF is_null THEN
        RAISE EXCEPTION '% must not be null', argument USING ERRCODE = 'null_value_not_allowed';
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION audit.refuse_null IS 'Raises an error that names the argument where is_null; true otherwise';

CREATE OR REPLACE FUNCTION audit.pieces(from_time timestamptz, to_time timestamptz)
RETURNS TABLE (unit text, starts_at timestamptz, ends_at timestamptz)
LANGUAGE sql STABLE ROWS 7
BEGIN ATOMIC
    SELECT v.unit, v.starts_at, v.ends_at
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
    CROSS JOIN LATERAL (
        VALUES ('hour', a3, z3), ('minute', a2, a3), ('minute', z3, z2), ('second', a1, a2), ('second', z2, z1),
            ('payment', a0, a1), ('payment', z1, z0)
    ) AS v (unit, starts_at, ends_at)
    WHERE v.starts_at < v.ends_at AND audit.refuse_upside_down(from_time, to_time);
END;
COMMENT ON FUNCTION audit.pieces IS 'The range from from_time to to_time, both included, null for an open end, cut into whole hours, minutes and seconds (UTC), and what is left at its edges, of which single payments are counted. An error where the range is upside down';

CREATE OR REPLACE FUNCTION audit.fee_at(name text, moment timestamptz) RETURNS numeric LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT f.fee FROM processor_fee f WHERE f.processor = name AND f.valid_from <= moment
        AND audit.refuse_null('name', name IS NULL) AND audit.refuse_null('moment', moment IS NULL)
    ORDER BY f.valid_from DESC LIMIT 1;
END;
COMMENT ON FUNCTION audit.fee_at IS 'The share that the processor with that name keeps of a payment with requested_at = moment; null where nobody knows it. An error where name or moment is null';

CREATE OR REPLACE FUNCTION audit.fees(from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL)
RETURNS TABLE (processor text, since timestamptz, fee_share numeric, payments bigint, amount numeric, fee numeric, net numeric)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    begins CONSTANT timestamptz := coalesce(from_time, '-infinity');
    ends   CONSTANT timestamptz := coalesce(to_time, 'infinity');
BEGIN
    PERFORM audit.refuse_upside_down(begins, ends);
    RETURN QUERY
    WITH term AS MATERIALIZED (
        SELECT t.starts_at, lead(t.starts_at - interval '1 microsecond', 1, ends) OVER (ORDER BY t.starts_at) AS last
        FROM (
            SELECT begins AS starts_at
            UNION SELECT f.valid_from FROM processor_fee f WHERE f.valid_from > begins AND f.valid_from <= ends
        ) AS t
    ), part AS (
        SELECT r.processor, t.starts_at AS since, r.payments, r.amount
        FROM term t CROSS JOIN LATERAL audit.recorded(t.starts_at, t.last) AS r
        UNION ALL
        -- Null, not 0: it is not known.
        SELECT a.processor, CASE WHEN a.fee_since < 'infinity' THEN greatest(a.starts_at, a.fee_since) END,
            a.payments, a.amount
        FROM audit.archived(from_time, to_time) AS a
    ), total AS (
        SELECT p.processor, (SELECT max(t.starts_at) FROM term t WHERE t.starts_at <= p.since) AS since,
            sum(p.payments)::bigint AS payments, sum(p.amount) AS amount
        FROM part p GROUP BY 1, 2
    )
    SELECT t.processor, t.since, s.share, t.payments, t.amount, t.amount * s.share, t.amount - t.amount * s.share
    FROM total t CROSS JOIN LATERAL (
        SELECT CASE WHEN t.since IS NOT NULL THEN audit.fee_at(t.processor, t.since) END AS share
    ) AS s
    WHERE t.payments <> 0
    ORDER BY t.processor, t.since;
END $$;
CREATE OR REPLACE FUNCTION audit.life(payment_id uuid)
RETURNS TABLE (at timestamptz, event text, processor text, requested_at timestamptz, claim integer, detail text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT e.at, e.event, e.processor, e.requested_at, e.claim, e.detail FROM (
        SELECT 1 AS step, p.accepted_at AS at, 'accepted' AS event, NULL AS processor, NULL::timestamptz AS requested_at,
            NULL::integer AS claim, 'amount ' || p.amount AS detail
        FROM audit.payment p WHERE p.correlation_id = payment_id AND p.accepted_at IS NOT NULL
        UNION
        SELECT 1, d.accepted_at, 'accepted', NULL, NULL, NULL, 'amount ' || d.amount
        FROM payment_decision d WHERE d.correlation_id = payment_id
        UNION ALL
        SELECT 2, a.requested_at, 'claimed', a.processor, a.requested_at, min(a.first_claim), NULL
        FROM audit.attempt a WHERE a.correlation_id = payment_id GROUP BY a.processor, a.requested_at
        UNION ALL
        SELECT 3, a.first_ended_at, a.outcome, a.processor, a.requested_at, a.first_claim,
            a.reason || CASE WHEN a.last_claim > a.first_claim
                THEN format(' (so until claim %s, recorded %s)', a.last_claim, a.last_ended_at) ELSE '' END
        FROM audit.attempt a WHERE a.correlation_id = payment_id AND a.outcome NOT IN ('charged', 'open')
        UNION ALL
        SELECT 4, d.decided_at,
            CASE d.decision WHEN 'discarded' THEN 'discarded' ELSE 'decided' END,
            d.processor, d.requested_at, NULL,
            format('%s (as %s) said%s: %s', d.decided_by, d.database_role,
                CASE WHEN d.decision = 'discarded' THEN '' ELSE ' ' || d.decision END, d.reason)
        FROM payment_decision d WHERE d.correlation_id = payment_id
        UNION ALL
        SELECT 5, p.ended_at, p.state, p.processor, p.requested_at, p.claims, p.reason
        FROM audit.payment p WHERE p.correlation_id = payment_id AND p.ended_at IS NOT NULL
        UNION ALL
        SELECT 6, m.exported_at, 'archived', NULL, NULL, NULL, 'amount ' || a.amount || ', settled; the rest is in ' || m.file
        FROM payment_archived a JOIN payment_archived_month m USING (month) WHERE a.correlation_id = payment_id
    ) AS e
    WHERE audit.refuse_null('payment_id', payment_id IS NULL)
    ORDER BY date_trunc('milliseconds', e.at), e.step, e.at;
END;
COMMENT ON FUNCTION audit.life IS 'What happened to the payment with the id payment_id, in order: accepted; claimed for a processor; what came of it, unless it was the charge; what an operator decided; settled, dead or discarded; of an archived one, which file has it. No row: nothing is known of that id. An error where payment_id is null';
