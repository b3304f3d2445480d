-- The stamp of a claim has whole milliseconds, so it may seem to be earlier than the acceptance in the same
-- millisecond. Within one, what happened is told in the only order that it can have happened in.
CREATE OR REPLACE FUNCTION audit.life(payment_id uuid)
RETURNS TABLE (at timestamptz, event text, processor text, requested_at timestamptz, claim integer, detail text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT e.at, e.event, e.processor, e.requested_at, e.claim, e.detail FROM (
        SELECT 1 AS step, p.accepted_at AS at, 'accepted' AS event, NULL AS processor, NULL::timestamptz AS requested_at,
            NULL::integer AS claim, 'amount ' || p.amount AS detail
        FROM audit.payment p WHERE p.correlation_id = payment_id
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
    ) AS e
    ORDER BY date_trunc('milliseconds', e.at), e.step, e.at;
END;
