"""Reading the ledgers: ours through the gateway, the processors' through their admin endpoints.

Money is read as Decimal from the text of the reply and kept in whole cents; never a float.
"""

import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from decimal import Decimal
from urllib.parse import urlsplit

# Seconds to wait for one reply. Reading ledgers is not measured, so this may be generous.
REPLY_TIMEOUT_S = 15
# Connections used at once where payments are looked up one by one.
LOOKUP_CONNECTIONS = 16
# Times a look-up is tried again, a second apart, where the service is briefly away.
LOOKUP_RETRIES = 5
RETRY_PAUSE_S = 1


class Unreadable(Exception):
    """A service gave no usable answer; the text says which and why."""


def cents(value):
    """A JSON amount as whole cents; anything finer is an error, not something to round."""
    scaled = Decimal(value) * 100
    if scaled != scaled.to_integral_value():
        raise Unreadable(f"{value} is not a whole number of cents")
    return int(scaled)


def instant(text):
    """An ISO 8601 time as milliseconds since 1970."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return round(moment.timestamp() * 1000)


def iso(ms):
    """Milliseconds since 1970 as the API wants them."""
    moment = datetime.fromtimestamp(ms // 1000, tz=timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


class Service:
    """An HTTP service; each thread keeps one connection to it."""

    def __init__(self, name, url, headers=None):
        self.name, self.url, self.headers = name, url.rstrip("/"), headers or {}
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname:
            raise Unreadable(f"{name}: {url!r} is not an http:// address")
        self.address, self.prefix = (parts.hostname, parts.port or 80), parts.path
        self.thread = threading.local()

    def _once(self, path):
        connection = getattr(self.thread, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(*self.address, timeout=REPLY_TIMEOUT_S)
            self.thread.connection = connection
        try:
            connection.request("GET", self.prefix + path, headers=self.headers)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        except (OSError, http.client.HTTPException):
            connection.close()
            self.thread.connection = None
            raise

    def get(self, path, retries=1):
        """Status and body. One retry by default: a kept connection may have been closed meanwhile."""
        for attempt in range(retries + 1):
            try:
                status, body = self._once(path)
                if status < 500 or attempt == retries:
                    return status, body
            except (OSError, http.client.HTTPException) as error:
                if attempt == retries:
                    raise Unreadable(f"{self.name}: GET {self.url}{path}: {error}") from error
            if attempt > 0:
                time.sleep(RETRY_PAUSE_S)
        raise AssertionError("the loop above returns or raises")

    def json(self, path, retries=1):
        """The body of a 200 as JSON, None for a 404."""
        status, body = self.get(path, retries)
        if status == 404:
            return None
        if status != 200:
            raise Unreadable(f"{self.name}: GET {self.url}{path} answered {status}: {body[:200]}")
        try:
            return json.loads(body, parse_float=Decimal)
        except ValueError as error:
            raise Unreadable(
                f"{self.name}: GET {self.url}{path}: not JSON: {body[:200]}"
            ) from error

    def lookup(self, ids):
        """`GET /payments/{id}` for each id: a dict of what was found."""
        with ThreadPoolExecutor(LOOKUP_CONNECTIONS) as pool:
            found = pool.map(lambda i: (i, self.json(f"/payments/{i}", LOOKUP_RETRIES)), ids)
            return {i: payment for i, payment in found if payment is not None}


class Gateway(Service):
    """Our side."""

    def totals(self, start, end):
        """Per processor (count, cents)."""
        body = self.json(f"/payments-summary?from={iso(start)}&to={iso(end)}")
        if body is None:
            raise Unreadable(f"{self.name}: no /payments-summary at {self.url}")
        return {n: (t["totalRequests"], cents(t["totalAmount"])) for n, t in body.items()}


class Processor(Service):
    """A processor, official or simulated."""

    def __init__(self, name, url, token):
        super().__init__(name, url, {"X-Rinha-Token": token})

    def summary(self, start=None, end=None):
        """Everything it says, or what lies in a range (both ends included)."""
        span = f"?from={iso(start)}&to={iso(end)}" if start is not None else ""
        body = self.json(f"/admin/payments-summary{span}")
        if body is None:
            raise Unreadable(f"{self.name}: no /admin/payments-summary at {self.url}")
        return body

    def totals(self, start, end):
        """(count, cents)."""
        body = self.summary(start, end)
        return body["totalRequests"], cents(body["totalAmount"])

    def fee(self):
        """What it takes of each amount, as a fraction."""
        return Decimal(self.summary()["feePerTransaction"])

    def faults(self):
        """How often each fault was injected since its start; None where none can be."""
        body = self.json("/admin/faults")
        return body and body["injected"]

    def payments(self, ids):
        """Everything it has stored: id -> (cents, requestedAt in ms).

        The simulated processor lists it. The official one does not, so there each id that may be
        there is asked for, and payments of somebody else stay unseen.
        """
        status, body = self.get("/admin/payment-ids")
        if status == 200:
            stored = (json.loads(line, parse_float=Decimal) for line in body.splitlines())
            return {
                p["correlationId"]: (cents(p["amount"]), instant(p["requestedAt"])) for p in stored
            }
        found = self.lookup(ids)
        return {i: (cents(p["amount"]), instant(p["requestedAt"])) for i, p in found.items()}
