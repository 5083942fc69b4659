"""Transactions that name an order, as the shadow that follows the ledger for the reconciliation has seen them so far.

Rows are under the number of that shadow, and change in the transaction that writes its rows and moves its positions. A
transaction that names no order is kept only for as long as it is not settled: a later event may still name one. All
functions work inside the caller's transaction; whoever writes holds the shadow's lock and then `ledger.orders.lock`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import polars as pl
from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Text,
    bindparam,
    cast,
    column,
    delete,
    func,
    select,
    update,
)

from ledger import bulk, orders
from ledger.order_tables import ORDER_EVENTS, ORDER_TRANSACTIONS, RECONCILIATION

__all__ = ["FOLLOWER", "ROW_SCHEMA", "drop", "known", "linked", "of_accounts", "without_account", "write"]

#: The name of the shadow that follows the ledger for the reconciliation.
FOLLOWER = "reconciliation"

_T = ORDER_TRANSACTIONS.c
_KEY = ("account_id", "transaction_id")
_MOMENT = pl.Datetime("us", "UTC")
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%.6fZ"

#: One transaction, as a frame; `order_id` is empty where none was told yet, `partition` null for a store. `version`,
#: `partition` and `position` are of its last event.
ROW_SCHEMA = pl.Schema(
    {
        "order_id": pl.String(),
        "account_id": pl.String(),
        "transaction_id": pl.String(),
        "type": pl.String(),
        "amount": pl.Int64(),
        "status": pl.String(),
        "business_code": pl.String(),
        "related_transaction_id": pl.String(),
        "created_at": _MOMENT,
        "is_recorded": pl.Boolean(),
        "updated_at": _MOMENT,
        "version": pl.Int64(),
        "partition": pl.Int64(),
        "position": pl.Int64(),
    }
)
_STORED_TYPES = {_MOMENT: pl.String(), pl.Boolean(): pl.Int64()}
_STORED_SCHEMA = pl.Schema({name: _STORED_TYPES.get(dtype, dtype) for name, dtype in ROW_SCHEMA.items()})


def known(connection: Connection, number: int, keys: pl.DataFrame) -> pl.DataFrame:
    """Return what is known (`ROW_SCHEMA`) of some transactions (`account_id`, `transaction_id`), in no order."""
    found = [_STORED_SCHEMA.to_frame()]
    pairs, is_wanted = _wanted(connection)
    # An outer join, so that no database begins with all rows of the number and looks for each among the keys.
    both = pairs.outerjoin(ORDER_TRANSACTIONS, is_wanted & (_T.number == number))
    statement = select(*(_T[name] for name in _STORED_SCHEMA)).select_from(both)
    for some in keys.select(_KEY).unique().iter_slices(bulk.KEYS_PER_QUERY):
        wanted = statement.params(wanted=msgspec.json.encode(some.rows()).decode())
        found.append(bulk.select_rows(connection, wanted, _STORED_SCHEMA).filter(pl.col("order_id").is_not_null()))
    return _read(pl.concat(found))


def write(connection: Connection, number: int, rows: pl.DataFrame, *, settled: pl.DataFrame) -> None:
    """Insert or replace rows (`ROW_SCHEMA`), and forget those that are `settled` without having named an order."""
    if settled.height:
        is_one = (_T.account_id == bindparam("account")) & (_T.transaction_id == bindparam("transaction"))
        gone = [{"account": account, "transaction": id_} for account, id_ in settled.select(_KEY).iter_rows()]
        connection.execute(delete(ORDER_TRANSACTIONS).where(_T.number == number, is_one), gone)
    stored = rows.select(pl.lit(number, pl.Int64()).alias("number"), *(_as_stored(name) for name in ROW_SCHEMA))
    bulk.upsert_rows(connection, ORDER_TRANSACTIONS, stored)


def linked(connection: Connection, number: int, order_ids: Sequence[str] | None = None) -> pl.DataFrame:
    """Return the transactions that name an order (`ROW_SCHEMA`), of all orders or of some, in no order."""
    statement = select(*(_T[name] for name in _STORED_SCHEMA)).where(_T.number == number, _T.order_id != "")
    return _read(bulk.select_rows(connection, statement, _STORED_SCHEMA, key=_T.order_id, keys=order_ids))


def of_accounts(connection: Connection, number: int, account_ids: Sequence[str]) -> list[str]:
    """Return the orders that transactions of some accounts name, each once, in order."""
    statement = select(_T.order_id).distinct().where(_T.number == number, _T.order_id != "")
    schema = {"order_id": ROW_SCHEMA["order_id"]}
    found = bulk.select_rows(connection, statement, schema, key=_T.account_id, keys=account_ids)
    return found["order_id"].unique().sort().to_list()


def without_account(connection: Connection, number: int) -> list[str]:
    """Return the orders of which no event tells an account, and that no transaction names: it may be any account's."""
    order_id = ORDER_EVENTS.c.order_id
    told = select(order_id).where(ORDER_EVENTS.c.account_id.is_not(None))
    named = select(_T.order_id).where(_T.number == number)
    statement = select(order_id).distinct().where(order_id.not_in(told), order_id.not_in(named)).order_by(order_id)
    return list(connection.execute(statement).scalars())


def drop(connection: Connection, number: int) -> None:
    """Forget all of a shadow: nothing was read of the ledger then, and every order has to be judged again."""
    orders.lock(connection)
    orders.touch_all(connection)
    connection.execute(delete(ORDER_TRANSACTIONS).where(_T.number == number))
    connection.execute(update(RECONCILIATION).values(ledger_read_until_at=None))


def _wanted(connection: Connection) -> tuple[Any, ColumnElement[bool]]:
    """Return the pairs of the parameter `wanted` as a table, and the condition that a row is of one of them."""
    wanted = bindparam("wanted", type_=Text)
    if connection.dialect.name == "postgresql":
        pairs = func.json_array_elements(cast(wanted, JSON)).table_valued(column("value", JSON), name="wanted_keys")
        account_id, transaction_id = pairs.c.value[0].as_string(), pairs.c.value[1].as_string()
    else:
        pairs = func.json_each(wanted).table_valued("value", name="wanted_keys")
        account_id = func.json_extract(pairs.c.value, "$[0]")
        transaction_id = func.json_extract(pairs.c.value, "$[1]")
    return pairs, (_T.account_id == account_id) & (_T.transaction_id == transaction_id)


def _read(stored: pl.DataFrame) -> pl.DataFrame:
    return stored.select(
        pl.col(name).str.to_datetime(_TIME_FORMAT, time_unit="us", time_zone="UTC")
        if dtype == _MOMENT
        else pl.col(name).cast(dtype)
        for name, dtype in ROW_SCHEMA.items()
    )


def _as_stored(name: str) -> pl.Expr:
    if ROW_SCHEMA[name] == _MOMENT:
        return pl.col(name).dt.strftime(_TIME_FORMAT)
    return pl.col(name).cast(_STORED_SCHEMA[name])
