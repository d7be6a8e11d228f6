"""Write all pages and chart files that are generated from the code: `python -m infra.docs`.

`--check` compares and writes nothing. The steps of `make check` compare each file on its own.
"""

from infra.docs import chart, chart_services, chart_settings, metrics, settings

# The page of faults is absent, because `make faults` generates it from results of tests.
GENERATORS = (settings, metrics, chart_services, chart_settings, chart)


def main() -> None:
    """Run the generators, in the order in which they write parts of the same file."""
    for generator in GENERATORS:
        generator.main()


if __name__ == "__main__":
    main()
