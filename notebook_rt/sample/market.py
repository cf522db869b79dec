"""The sample market: its stocks, and what happens next. Pure, and deterministic for a seed.

In: a source of randomness and, for the times of past trades, the current time. Out: rows as dicts, and events
(`Trade`, `Opened`, `Closed`) that `writer` writes. Prices are invented; only the names of the companies are
real.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeAlias

Row: TypeAlias = dict[str, Any]
Side: TypeAlias = Literal["buy", "sell"]

TABLES = ("stocks", "trades", "orders")
"""The tables in the order of their creation."""
ROOM = "trading-floor"
"""The channel of the people."""
PEOPLE = ("Ada", "Grace", "Edgar")

CALM = 0.985
"""The share of a stock's change that remains after a trade: prices stay near their opening price."""
SWING = 0.3
"""The standard deviation of one trade's move, in percent."""
OPEN_ORDERS = 12
"""The approximate number of open orders."""
TRADES_KEPT = 2_000
"""Maximum number of trades; the oldest are deleted, so that a demo can run overnight."""
PAST_TRADES = 800
"""Number of trades before a demo starts, at its rate, so that a chart starts with data."""


@dataclass(frozen=True, slots=True)
class Company:
    """A stock and its share of the trades."""

    symbol: str
    name: str
    sector: str
    price: float
    weight: int


COMPANIES = (
    Company("NVDA", "NVIDIA", "Tech", 134.0, 9),
    Company("AAPL", "Apple", "Tech", 231.0, 7),
    Company("MSFT", "Microsoft", "Tech", 417.0, 6),
    Company("GOOG", "Alphabet", "Media", 172.0, 5),
    Company("META", "Meta", "Media", 563.0, 4),
    Company("NFLX", "Netflix", "Media", 756.0, 3),
    Company("AMZN", "Amazon", "Consumer", 198.0, 6),
    Company("TSLA", "Tesla", "Consumer", 249.0, 8),
    Company("KO", "Coca-Cola", "Consumer", 63.0, 3),
    Company("JPM", "JPMorgan", "Finance", 239.0, 4),
    Company("V", "Visa", "Finance", 309.0, 3),
    Company("XOM", "Exxon Mobil", "Energy", 118.0, 3),
    Company("CVX", "Chevron", "Energy", 154.0, 3),
    Company("LLY", "Eli Lilly", "Health", 801.0, 3),
    Company("JNJ", "Johnson & Johnson", "Health", 157.0, 3),
)


@dataclass(frozen=True, slots=True)
class Trade:
    """A trade: a row of ``trades``, and the stock after it."""

    symbol: str
    side: Side
    size: int
    price: float
    trader: str
    change: float
    """The change of the stock since the market opened, in percent."""

    @property
    def row(self) -> Row:
        """Return the row of ``trades``, without its key and time."""
        return {
            "symbol": self.symbol,
            "side": self.side,
            "size": self.size,
            "price": self.price,
            "trader": self.trader,
        }


@dataclass(frozen=True, slots=True)
class Opened:
    """A new order; the database generates its key, which is passed to `Market.placed`."""

    row: Row


@dataclass(frozen=True, slots=True)
class Closed:
    """An order that was open is filled or cancelled."""

    id: int
    status: Literal["filled", "cancelled"]


Event: TypeAlias = Trade | Opened | Closed


@dataclass(slots=True)
class _Stock:
    company: Company
    change: float
    volume: int

    @property
    def price(self) -> float:
        return round(self.company.price * (1 + self.change / 100), 2)


@dataclass(slots=True)
class Market:
    """The market from its opening on.

    Parameters
    ----------
    chance
        The source of every decision: the same seed gives the same market.

    Examples
    --------
    >>> one, other = Market(Random(7)), Market(Random(7))
    >>> [one.step() for _ in range(3)] == [other.step() for _ in range(3)]
    True
    """

    chance: Random
    open_orders: list[int] = field(default_factory=list)
    """The keys of the open orders."""
    _stocks: list[_Stock] = field(init=False)
    _past: list[Trade] = field(init=False)
    _orders: list[Row] = field(init=False)

    def __post_init__(self) -> None:
        chance = self.chance
        self._stocks = [
            _Stock(each, chance.gauss(0, 1.2), 100 * chance.randint(20, 90) * each.weight)
            for each in COMPANIES
        ]
        self._past = [self._trade() for _ in range(PAST_TRADES)]
        self._orders = [self._order() for _ in range(OPEN_ORDERS)]
        self.open_orders = list(range(1, OPEN_ORDERS + 1))  # as the database counts them

    def opening(self, now: dt.datetime, rate: float) -> Mapping[str, list[Row]]:
        """Return the rows of each table at the start of a demo, in the order of their keys; ``rate`` is the
        number of trades per second so far."""
        apart = dt.timedelta(seconds=1 / rate)
        begin = now - PAST_TRADES * apart
        return {
            "stocks": [
                {
                    "symbol": each.company.symbol,
                    "company": each.company.name,
                    "sector": each.company.sector,
                    "price": each.price,
                    "change": round(each.change, 2),
                    "volume": each.volume,
                }
                for each in self._stocks
            ],
            "trades": [
                {"at": (begin + number * apart).isoformat(), **trade.row}
                for number, trade in enumerate(self._past)
            ],
            "orders": self._orders,
        }

    def step(self) -> list[Event]:
        """Return the next events: always a trade, and for about every third one an order opens or closes."""
        events: list[Event] = [self._trade()]
        if self.chance.random() < 0.35:
            often = len(self.open_orders) / (2 * OPEN_ORDERS)
            if self.open_orders and self.chance.random() < often:
                one = self.open_orders.pop(self.chance.randrange(len(self.open_orders)))
                filled = self.chance.random() < 0.8
                events.append(Closed(one, "filled" if filled else "cancelled"))
            else:
                events.append(Opened(self._order()))
        return events

    def placed(self, order: int) -> None:
        """Record the key of an open order."""
        self.open_orders.append(order)

    def _pick(self) -> _Stock:
        weights = [each.company.weight for each in self._stocks]
        return self.chance.choices(self._stocks, weights)[0]

    def _trade(self) -> Trade:
        stock, chance = self._pick(), self.chance
        move = chance.gauss(0, SWING)
        stock.change = stock.change * CALM + move
        size = 10 * chance.randint(1, 90)
        stock.volume += size
        return Trade(
            stock.company.symbol,
            "buy" if move > 0 else "sell",
            size,
            stock.price,
            chance.choice(PEOPLE),
            round(stock.change, 2),
        )

    def _order(self) -> Row:
        stock, chance = self._pick(), self.chance
        side: Side = "buy" if chance.random() < 0.5 else "sell"
        away = chance.uniform(0.1, 1.5) * (-1 if side == "buy" else 1)  # below or above the price
        return {
            "symbol": stock.company.symbol,
            "side": side,
            "quantity": 10 * chance.randint(1, 50),
            "price": round(stock.price * (1 + away / 100), 2),
            "trader": chance.choice(PEOPLE),
        }


def looking(chance: Random, name: str) -> dict[str, str]:
    """Return a person's presence state, as other clients see it."""
    status = "away" if chance.random() < 0.2 else "online"
    return {"name": name, "status": status, "looking_at": chance.choice(COMPANIES).symbol}


def statements(tables: Iterable[str]) -> str:
    """Return the SQL that creates these tables.

    >>> "create table public.trades" in statements(["stocks"])
    False
    """
    _, *parts = Path(__file__).with_name("market.sql").read_text().split("-- table: ")
    wanted = set(tables)
    return "".join("-- " + part for part in parts if part.partition("\n")[0] in wanted)
