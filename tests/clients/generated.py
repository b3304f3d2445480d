"""Pays with clients that are made of the documents. usage: generated.py PUBLIC OPERATORS TOKEN"""

import sys
import time
import uuid
from datetime import datetime, timezone

from payment_proxy_client import Client
from payment_proxy_client.api.payments import create_payment, get_payment, get_payments_summary
from payment_proxy_client.models import Payment, PaymentState, Problem
from payment_proxy_for_operators_client import AuthenticatedClient
from payment_proxy_for_operators_client.api.routing import disable_processor, get_routing

public, operators, token = sys.argv[1:]
client = Client(base_url=public)
correlation_id = uuid.uuid4()

accepted = create_payment.sync_detailed(
    client=client, body=Payment(correlation_id=correlation_id, amount=20.5)
)
assert accepted.status_code == 202, accepted

for _ in range(200):
    view = get_payment.sync(correlation_id, client=client)
    if view.state == PaymentState.SETTLED:
        break
    time.sleep(0.05)
assert (view.amount, view.processor) == (20.5, "default"), view
assert view.requested_at.tzinfo is not None

summary = get_payments_summary.sync(
    client=client, from_=datetime(2026, 1, 1, tzinfo=timezone.utc)
)
assert summary["default"].total_amount >= 20.5, summary

problem = create_payment.sync(
    client=client, body=Payment(correlation_id=correlation_id, amount=20.75)
)
assert isinstance(problem, Problem), problem
assert (problem.type_, problem.status) == ("/problems/amount-conflict", 409), problem

operator = AuthenticatedClient(base_url=operators, token=token)
routing = get_routing.sync(client=operator)
assert [processor.name for processor in routing.processors] == ["default"], routing
refused = disable_processor.sync("nobody", client=operator)
assert refused.type_ == "/problems/processor-not-found", refused
print("paid", correlation_id)
