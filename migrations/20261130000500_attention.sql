-- What only an instance knows of itself, where whoever looks at the deployment finds it.
ALTER TABLE service_instance
    ADD COLUMN processors text[] NOT NULL DEFAULT '{}',
    ADD COLUMN attention  jsonb  NOT NULL DEFAULT '[]';
COMMENT ON COLUMN service_instance.processors IS 'Names of the processors that it is configured with; empty: it does not say';
COMMENT ON COLUMN service_instance.attention IS 'What this instance found that wants an operator''s attention, at its last sign of life';
