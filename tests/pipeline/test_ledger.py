"""The ledger: whole pieces or none, one file a finished cell, old answers moved aside and never mixed with new ones."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.ledger import Ledger, as_parquet

CELL = {"kind": "clean", "rows": 5, "step": 2, "images": "a"}


def rows(*values):
    return as_parquet(pa.table({"sample_id": list(values)}))


def begun(folder, **cells):
    ledger = Ledger(folder)
    ledger.ask({"network": 1}, cells or {"clean": CELL}, {"batch": 2})
    return ledger


def test_answers_come_back_in_the_order_of_rows_whatever_the_order_they_came_in(tmp_path):
    ledger = begun(tmp_path / "ledger")
    for first, values in ((4, [4]), (0, [0, 1]), (2, [2, 3])):
        assert not ledger.is_finished("clean")
        ledger.put("clean", first, rows(*values))
    assert ledger.read("clean")["sample_id"].to_pylist() == [0, 1, 2, 3, 4]
    ledger.finish("clean")
    assert ledger.is_finished("clean") and not (tmp_path / "ledger" / "pieces" / "clean").exists()
    assert ledger.read("clean")["sample_id"].to_pylist() == [0, 1, 2, 3, 4]
    assert ledger.piece("clean", 2)["sample_id"].to_pylist() == [2, 3]
    assert pq.ParquetFile(ledger.finished_path("clean")).num_row_groups == 3


def test_an_unfinished_ledger_can_be_read_by_somebody_else(tmp_path):
    begun(tmp_path).put("clean", 2, rows(2, 3))
    reader = Ledger(tmp_path)
    assert reader.firsts("clean") == [2] and reader.all_firsts("clean") == [0, 2, 4]
    assert reader.read("clean")["sample_id"].to_pylist() == [2, 3]


def test_a_half_written_piece_does_not_count(tmp_path):
    ledger = begun(tmp_path)
    ledger.put("clean", 0, rows(0, 1))
    (tmp_path / "pieces" / "clean" / "000000002.tmp").write_bytes(rows(2, 3)[:20])
    assert ledger.firsts("clean") == [0]


@pytest.mark.parametrize("damaged", [rows(2, 3)[:-9], b"", rows(2)])
def test_a_damaged_piece_is_removed_and_named(tmp_path, damaged):
    ledger = begun(tmp_path)
    for first, content in ((0, rows(0, 1)), (2, damaged), (4, rows(4))):
        ledger.put("clean", first, content)
    with pytest.raises(RuntimeError, match=r"000000002.parquet .* is removed"):
        ledger.finish("clean")
    assert ledger.firsts("clean") == [0, 4] and not ledger.is_finished("clean")
    ledger.put("clean", 2, rows(2, 3))
    ledger.finish("clean")
    assert ledger.read("clean").num_rows == 5


def test_answers_of_other_networks_are_moved_aside_and_not_lost(tmp_path):
    ledger = begun(tmp_path / "ledger")
    ledger.put("clean", 0, rows(0, 1))
    for number in (1, 2):
        again = Ledger(tmp_path / "ledger")
        again.ask({"network": number + 1}, {"clean": CELL}, {})
        assert again.firsts("clean") == []
        assert (tmp_path / f"ledger-old-{number}").is_dir()
    assert Ledger(tmp_path / "ledger-old-1").read("clean")["sample_id"].to_pylist() == [0, 1]


def test_other_images_of_a_cell_begin_a_new_ledger_and_new_cells_join_the_old_one(tmp_path):
    ledger = begun(tmp_path / "ledger")
    ledger.put("clean", 0, rows(0, 1))
    more = begun(tmp_path / "ledger", contrast_1=CELL)
    assert more.firsts("clean") == [0] and set(more.asked["cells"]) == {"clean", "contrast_1"}
    other = begun(tmp_path / "ledger", clean=CELL | {"images": "b"})
    assert other.firsts("clean") == [] and set(other.asked["cells"]) == {"clean"}


def test_a_kill_between_joining_and_tidying_up_leaves_a_finished_cell(tmp_path):
    ledger = begun(tmp_path)
    for first, values in ((0, [0, 1]), (2, [2, 3]), (4, [4])):
        ledger.put("clean", first, rows(*values))
    ledger.finish("clean")
    ledger.put("clean", 2, rows(2, 3))  # as if the pieces had not been removed
    again = begun(tmp_path)
    assert again.is_finished("clean") and not (tmp_path / "pieces" / "clean").exists()
    assert again.read("clean").num_rows == 5


def test_pieces_are_parquet_files_that_others_can_read(tmp_path):
    table = pq.read_table(io.BytesIO(rows(7, 8)))
    assert table["sample_id"].to_pylist() == [7, 8]
