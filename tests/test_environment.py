import os
import subprocess

import pytest
import torch

from qlstm.study import environment


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit, which is the checkout; its short hash."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)

    def git(*words):
        return subprocess.run(
            ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=b", *words], check=True,
            capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("as committed")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path)
    return git("rev-parse", "--short=12", "HEAD")


def commit():
    return environment.describe_environment(torch.device("cpu"), "naive")["commit"]


def test_the_commit_is_that_of_the_checkout(repository, tmp_path, monkeypatch):
    assert commit() == repository
    (tmp_path / "file").write_text("changed")
    assert commit() == f"{repository}-dirty"
    (tmp_path / "study").mkdir()  # unpacked in another repository
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path / "study")
    assert commit() is None


def test_the_commit_is_not_what_the_environment_points_to(repository, tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    assert commit() == repository


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root gives files away")
def test_a_checkout_of_another_user_has_a_commit(repository, tmp_path):
    for path in (tmp_path, tmp_path / ".git"):
        os.chown(path, 12345, 12345)
    assert commit() == repository
