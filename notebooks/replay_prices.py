"""Replay ten years of monthly stock prices into the table ``prices``: somebody else, writing.

A process of its own with an unmodified ``supabase`` client, as the data of a real project would
arrive. The prices are the ``stocks`` series that ships with ``vega_datasets``: 560 month-end closes
of five companies, 2000 to 2010.

    python replay_prices.py [SECONDS A MONTH]

reads SUPABASE_URL and SUPABASE_KEY from the environment.
"""

import os
import sys
import time

from supabase import create_client
from vega_datasets import data


def main() -> None:
    pause = float(sys.argv[1]) if len(sys.argv) > 1 else 0.1
    client = create_client(os.environ["SUPABASE_URL"], os.environ["SUPABASE_KEY"])
    for month, closes in data.stocks().groupby("date"):
        client.table("prices").upsert(
            [
                {"symbol": row.symbol, "month": f"{month:%Y-%m-%d}", "price": row.price}
                for row in closes.itertuples()
            ]
        ).execute()
        time.sleep(pause)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
