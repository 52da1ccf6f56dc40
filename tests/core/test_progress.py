from fakesound.core.progress import track


def test_every_item_comes_through_and_the_end_is_told(capsys):
    assert list(track(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr().out.startswith("counting: 3 done in ")


def test_nothing_to_do_is_told_too(capsys):
    assert list(track([], "counting")) == []
    assert "counting: 0 done" in capsys.readouterr().out
