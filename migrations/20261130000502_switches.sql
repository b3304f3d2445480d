-- Who took a processor out of use or put it back, when and why.

CREATE TABLE processor_switch (
    processor     text        NOT NULL,
    switched_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    enabled       boolean     NOT NULL,
    switched_by   text        NOT NULL,
    database_role text        NOT NULL DEFAULT session_user,
    reason        text        NOT NULL,
    CONSTRAINT processor_switch_pkey PRIMARY KEY (processor, switched_at),
    CONSTRAINT processor_switch_has_an_author CHECK (switched_by <> ''),
    CONSTRAINT processor_switch_has_a_reason CHECK (reason <> '')
);
COMMENT ON TABLE processor_switch IS 'Each time that an operator took a processor out of use or put it back; rows are only added';
COMMENT ON COLUMN processor_switch.processor IS 'Name of the processor';
COMMENT ON COLUMN processor_switch.switched_at IS 'When it was switched';
COMMENT ON COLUMN processor_switch.enabled IS 'True: put back into use; false: taken out, nothing new is sent there';
COMMENT ON COLUMN processor_switch.switched_by IS 'Who did it, as he said';
COMMENT ON COLUMN processor_switch.database_role IS 'The role that it was done by';
COMMENT ON COLUMN processor_switch.reason IS 'Why, in the words of whoever did it';

-- With the rights of the owner: the service adds switches in no other way.
CREATE FUNCTION switch_processor(name text, into_use boolean, by_whom text, why text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    UPDATE processor_health SET enabled = into_use WHERE processor = name;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO processor_switch (processor, enabled, switched_by, reason) VALUES (name, into_use, by_whom, why);
    RETURN true;
END
$$;
COMMENT ON FUNCTION switch_processor IS 'Takes a processor out of use or puts it back, and records who did so and why; false where no instance has ever heard of it';

-- `migrate` grants this to the service.
REVOKE EXECUTE ON FUNCTION switch_processor FROM PUBLIC;

DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'auditor') THEN
        GRANT SELECT ON processor_switch TO auditor;
    END IF;
END $$;
