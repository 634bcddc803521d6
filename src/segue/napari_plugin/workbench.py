# pyright: reportMissingImports=false
"""The widget: images of a folder are opened, segmented by a model, corrected, saved, and trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Qt, QTimer, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from segue.errors import SegueError
from segue.napari_plugin.project import Project, project_of_dataset, read_picture, read_result
from segue.napari_plugin.training import Training, trainings

if TYPE_CHECKING:
    import napari

LABELS, SEGMENTATION, BEFORE, AFTER = "labels", "segmentation", "before", "after"
LOOK_EVERY_MS = 1000  # at the training
DRAFT_EVERY_MS = 20_000
Segmented = tuple[Path, np.ndarray | SegueError]
LABELED, DRAWN, PLAIN = "●", "○", "  "


class Workbench(QWidget):
    """Layers of the viewer: the image by its name, `labels` to draw in, `segmentation` as a model gave it, `before` and
    `after` a training. Labels that are drawn are kept as a draft whenever another image is opened, every 20 s, and when
    the viewer closes."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:  # the name by which napari gives it
        super().__init__()
        self.viewer: Any = napari_viewer
        self.viewer.layers.events.removed.connect(self._layer_removed)
        self._labels: Any = None  # the layer to draw in, whatever it is called
        self.project: Project | None = None
        self.image_path: Path | None = None
        self.training: Training | None = None
        self._picture = np.zeros((1, 1, 1), np.uint8)
        self._on_disk = np.zeros((1, 1), np.int32)  # labels as they are on disk
        self._models: dict[str, Path] = {}
        self._workers: list[Any] = []
        self._build()
        self._timers = [self._timer(LOOK_EVERY_MS, self.look_at_training), self._timer(DRAFT_EVERY_MS, self.keep_draft)]
        self._refresh_models()

    # layout

    def _build(self) -> None:
        self.images = QListWidget()
        self.images.setAccessibleName("Images")
        self.images.setMinimumHeight(120)
        self.images.currentItemChanged.connect(self._image_chosen)
        self.count = QLabel("no folder")
        self.model = QComboBox()
        self.model.setAccessibleName("Model")
        self.model.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.progress = QProgressBar()
        self.progress.setVisible(False)
        self.minutes = QDoubleSpinBox()
        self.minutes.setRange(0.1, 10_000.0)
        self.minutes.setDecimals(1)
        self.minutes.setSuffix(" min")
        self.minutes.setValue(10.0)
        self.from_model = QCheckBox("from the model above")
        self.from_model.setChecked(True)
        self.state, self.result = QLabel(""), QLabel("")
        self.state.setWordWrap(True)
        self.result.setWordWrap(True)
        self.result.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.buttons: dict[str, QPushButton] = {}
        content = QWidget()
        layout = QVBoxLayout(content)
        scroll = QScrollArea()  # small windows show all of it
        scroll.setWidget(content)
        scroll.setWidgetResizable(True)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(scroll)
        groups: dict[str, list[list[QWidget]]] = {
            "Images": [
                [self._button("Open folder…", self.choose_folder), self._button("Open dataset…", self.choose_dataset)],
                [self.images],
                [self.count, self._button("Next to label", self.suggest)],
            ],
            "Segment": [
                [self.model, self._button("Other…", self.choose_model)],
                [self._button("Segment", self.segment), self._button("Segment all", self.segment_all)],
                [self.progress],
            ],
            "Labels": [[self._button("Use segmentation", self.use), self._button("Save labels", self.save)]],
            "Train": [
                [self.minutes, self.from_model],
                [
                    self._button("Train", self.train),
                    self._button("Stop", self.stop),
                    self._button("Resume", self.resume),
                ],
                [self.result],
                [self.state],
                [self._button("Before and after", self.compare), self._button("Open page", self.open_page)],
            ],
        }
        for title, rows in groups.items():
            box = QGroupBox(title)
            inner = QVBoxLayout(box)
            for row in rows:
                line = QHBoxLayout()
                for widget in row:
                    line.addWidget(widget)
                inner.addLayout(line)
            layout.addWidget(box)
        bar = scroll.verticalScrollBar().sizeHint().width()
        scroll.setMinimumWidth(content.minimumSizeHint().width() + bar)
        self._update()

    def _button(self, text: str, action: Callable[[], object]) -> QPushButton:
        def act() -> None:
            try:
                action()
            except SegueError as error:
                show_error(str(error))
            self._update()

        button = QPushButton(text)
        button.clicked.connect(act)
        self.buttons[text] = button
        return button

    def _timer(self, every_ms: int, action: Callable[[], object]) -> QTimer:
        timer = QTimer(self)
        timer.timeout.connect(action)
        timer.start(every_ms)
        return timer

    def _update(self) -> None:
        """Enables what can be done now."""
        has_image, project = self.image_path is not None, self.project
        training = self.training
        is_running = training is not None and training.is_running and not training.is_finished
        labeled = sum(map(project.is_labeled, project.images())) if project else 0
        allowed = {
            "Segment": has_image,
            "Segment all": has_image,
            "Use segmentation": SEGMENTATION in self.viewer.layers,
            "Save labels": has_image,
            "Next to label": has_image,
            "Train": labeled > 0 and not is_running,
            "Stop": is_running,
            "Resume": training is not None and training.was_stopped,
            "Before and after": has_image and training is not None and training.is_finished,
            "Open page": training is not None and training.is_finished,
        }
        for text, is_allowed in allowed.items():
            self.buttons[text].setEnabled(is_allowed)
        if project is not None:
            self.count.setText(f"{labeled} of {self.images.count()} labeled")

    # images

    def choose_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder of images")
        if folder:
            self.open(Project(Path(folder)))

    def choose_dataset(self) -> None:
        file, _ = QFileDialog.getOpenFileName(self, "Dataset of segue", filter="Datasets (*.h5)")
        if file:
            self.open(project_of_dataset(Path(file)))

    def open(self, project: Project) -> None:
        """Shows the images of a folder, and the first of them."""
        paths = project.images()
        self.keep_draft()
        self.project, self.image_path = project, None
        self.images.clear()
        for path in paths:
            item = QListWidgetItem(path.name)
            item.setData(Qt.ItemDataRole.UserRole, path)
            self.images.addItem(item)
        self._mark_images()
        earlier = trainings(project.models)
        self.training = earlier[-1] if earlier else None
        self._refresh_models()
        self.images.setCurrentRow(0)
        self.look_at_training()

    def _mark_images(self) -> None:
        if self.project is None:
            return
        for row in range(self.images.count()):
            item = self.images.item(row)
            path = item.data(Qt.ItemDataRole.UserRole)
            is_drawn = self.project.draft_file(path).is_file()
            mark = DRAWN if is_drawn else LABELED if self.project.is_labeled(path) else PLAIN
            item.setText(f"{mark} {path.name}")
            item.setToolTip({DRAWN: "labels not saved", LABELED: "labels saved", PLAIN: "no labels"}[mark])

    def _image_chosen(self, item: QListWidgetItem | None, _previous: object = None) -> None:
        if item is not None:
            try:
                self.show_image(item.data(Qt.ItemDataRole.UserRole))
            except SegueError as error:
                show_error(str(error))
            self._update()

    def show_image(self, path: Path) -> None:
        """Opens an image with its labels, in the place of the one before."""
        assert self.project is not None
        picture = read_picture(path)
        labels = self.project.read_labels(path, picture.shape[1:])  # type: ignore[arg-type]
        self.keep_draft()
        self.viewer.layers.clear()
        self.image_path, self._picture, self._on_disk = path, picture, labels.copy()
        if len(picture) == 1:
            self.viewer.add_image(picture[0], name=path.name)
        elif len(picture) == 3:
            self.viewer.add_image(np.moveaxis(picture, 0, -1), name=path.name, rgb=picture.dtype == np.uint8)
        else:
            self.viewer.add_image(picture, name=path.name, channel_axis=0)
        self._labels = self.viewer.add_labels(labels, name=LABELS)
        self.viewer.reset_view()

    def _current_labels(self) -> np.ndarray | None:
        """Returns the labels as they are drawn, None where their layer was removed."""
        return None if self._labels is None else np.asarray(self._labels.data, np.int32)

    def _layer_removed(self, event: Any) -> None:
        """Keeps what was drawn in the layer that is removed, as by closing the viewer."""
        # napari gives plugins proxies of layers, and events the layers themselves
        if event.value is getattr(self._labels, "__wrapped__", self._labels):
            self.keep_draft()
            self._labels = None

    def keep_draft(self) -> None:
        """Writes labels that were drawn and not saved."""
        labels = self._current_labels()
        if self.project is None or self.image_path is None or labels is None:
            return
        if not np.array_equal(labels, self._on_disk):
            self.project.save_draft(self.image_path, labels)
            self._on_disk = labels.copy()
            self._mark_images()

    # segmentation

    def _refresh_models(self, choose: str | None = None) -> None:
        others = {name: path for name, path in self._models.items() if path.is_dir()}
        self._models = {**others, **(self.project or Project(Path())).finished_models()}
        current = choose or self.model.currentText()
        self.model.clear()
        self.model.addItems(list(self._models))
        if current in self._models:
            self.model.setCurrentText(current)

    def choose_model(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder of a finished run")
        if folder:
            self._models[Path(folder).name] = Path(folder)
            self._refresh_models(Path(folder).name)

    def segment(self) -> None:
        """Segments the image that is shown."""
        path, picture = self.image_path, self._picture
        assert path is not None
        self._run(0, self._show_segmentation, _segment, self._models[self.model.currentText()], [(path, picture)])

    def segment_all(self) -> None:
        """Segments every image without labels, whose segmentations become drafts."""
        project = self.project
        assert project is not None
        self.keep_draft()
        paths = [
            path for path in project.images() if not project.is_labeled(path) and not project.draft_file(path).is_file()
        ]
        images: list[tuple[Path, np.ndarray | None]] = [(path, None) for path in paths]

        def keep(segmented: Segmented) -> None:
            path, labels = segmented
            if isinstance(labels, SegueError):
                show_error(str(labels))
                return
            if path == self.image_path:
                current = self._current_labels()
                if current is None or not np.array_equal(current, self._on_disk):
                    return  # what is being drawn is kept
                self._on_disk = labels.copy()
                self._labels.data = labels
            elif project.draft_file(path).is_file() or project.is_labeled(path):
                return
            project.save_draft(path, labels)
            self._mark_images()

        self._run(len(images), keep, _segment, self._models[self.model.currentText()], images)

    def _show_segmentation(self, segmented: Segmented) -> None:
        current = self._current_labels()
        if self._show(SEGMENTATION, segmented) and current is not None and not current.any():
            self.use()
        self._update()

    def _show(self, name: str, segmented: Segmented) -> bool:
        """Shows a segmentation as a layer, unless another image was opened meanwhile; returns whether it is shown."""
        path, labels = segmented
        if isinstance(labels, SegueError):
            show_error(str(labels))
            return False
        if path != self.image_path:
            return False
        if name in self.viewer.layers:
            self.viewer.layers[name].data = labels
        else:
            self.viewer.add_labels(labels, name=name, opacity=0.5)
        return True

    def _require_labels(self) -> np.ndarray:
        current = self._current_labels()
        if current is None:
            raise SegueError(f"the layer '{LABELS}' was removed; choose the image in the list again.")
        return current

    def use(self) -> None:
        """Takes the segmentation as labels, to be corrected."""
        self._require_labels()
        self._labels.data = np.asarray(self.viewer.layers[SEGMENTATION].data).copy()
        self.viewer.layers[SEGMENTATION].visible = False
        self.viewer.layers.selection.active = self._labels

    def save(self) -> None:
        """Writes the labels for training."""
        assert self.project is not None and self.image_path is not None
        labels = self._require_labels()
        self.project.save_labels(self.image_path, labels)
        self._on_disk = labels.copy()
        self._mark_images()

    def suggest(self) -> None:
        """Opens the image without labels from which the model is expected to learn most."""
        project = self.project
        assert project is not None
        model = self._models[self.model.currentText()]
        ranked = project.ranking(model)
        if ranked:
            self._open_image(ranked[0])
            return
        images = project.images()
        labeled = [path for path in images if project.is_labeled(path)]
        rest = [path for path in images if not project.is_labeled(path)]
        if not rest:
            show_info("Every image has labels.")
            return
        self._run(0, self._open_image, _rank, model, labeled, rest)

    def _open_image(self, path: Path) -> None:
        for row in range(self.images.count()):
            if self.images.item(row).data(Qt.ItemDataRole.UserRole) == path:
                self.images.setCurrentRow(row)

    # training

    def train(self) -> None:
        """Begins `segue fit` on the labels that were saved, in a process of its own."""
        project = self.project
        assert project is not None
        self.keep_draft()
        name = self.model.currentText()
        parents = [self._models[name]] if self.from_model.isChecked() else []
        self.training = Training(project.models / project.new_model_name())
        self.training.start(project.folder, project.labels, parents=parents, minutes=self.minutes.value())
        self.result.setText("")
        self.look_at_training()

    def stop(self) -> None:
        assert self.training is not None
        self.training.stop()

    def resume(self) -> None:
        assert self.training is not None
        self.training.resume()

    def look_at_training(self) -> None:
        """Shows how far the training is; it goes on when the viewer closes."""
        training = self.training
        if training is None:
            return
        name = training.model.name
        if training.is_finished:
            if not self.result.text():
                self._show_result(training)
        elif training.is_running:
            self.state.setText(f"{name}: {training.state}")
        elif training.record.is_file():
            self.state.setText(f"{name}: stopped; Resume goes on. {training.state}")
        self._update()

    def _show_result(self, training: Training) -> None:
        result = read_result(training.model)
        rows = [result.after] if result.before in (None, result.after) else [result.before, result.after]
        table = "".join(
            f"<tr><td>{one.name}</td><td align='right'>&nbsp;<b>{one.mean:.3f}</b></td>"
            f"<td>&nbsp;[{one.low:.3f}, {one.high:.3f}]</td></tr>"
            for one in rows
            if one is not None
        )
        self.state.setText(f"{training.model.name}: {' '.join(result.answer[1:])}")
        self.result.setText(f"{result.meaning}, held-out images:<table>{table}</table>")
        self._refresh_models(training.model.name)

    def compare(self) -> None:
        """Segments the image by the parent and by the trained model, as layers `before` and `after`."""
        training = self.training
        assert training is not None and self.image_path is not None
        models = {BEFORE: self._parent_of(training), AFTER: training.model}
        path, picture = self.image_path, self._picture
        if models[BEFORE] is None:
            show_info("It was trained from scratch: there is no model before.")

        def show(name: str) -> Callable[[Segmented], None]:
            return lambda segmented: (self._show(name, segmented), None)[1]

        for name, model in models.items():
            if model is not None:
                self._run(0, show(name), _segment, model, [(path, picture)])

    def _parent_of(self, training: Training) -> Path | None:
        from segue.storage import read_json

        arguments = read_json(training.record)["arguments"] if training.record.is_file() else []
        return Path(arguments[arguments.index("--from") + 1]) if "--from" in arguments else None

    def open_page(self) -> None:
        assert self.training is not None
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(read_result(self.training.model).page)))

    # work in threads

    def _run(self, total: int, use: Callable[[Any], None], work: Callable[..., Iterator[Any]], *arguments: Any) -> None:
        """Works in a thread of its own; results are used in this one as they come, `total` in all (0: not known)."""
        worker: Any = create_worker(work, *arguments, _start_thread=False)
        self.progress.setRange(0, total)
        self.progress.setValue(0)
        self.progress.setVisible(True)

        def take(segmented: Any) -> None:
            self.progress.setValue(self.progress.value() + 1)
            use(segmented)

        def end() -> None:
            self._workers.remove(worker)
            self.progress.setVisible(bool(self._workers))
            self._update()

        worker.yielded.connect(take)
        worker.errored.connect(self._show_failure)
        worker.finished.connect(end)
        self._workers.append(worker)
        worker.start()

    def _show_failure(self, error: Exception) -> None:
        show_error(str(error))

    def hideEvent(self, event: Any) -> None:
        self.keep_draft()
        super().hideEvent(event)


def _segment(model: Path, images: list[tuple[Path, np.ndarray | None]]) -> Iterator[Segmented]:
    """Yields the labels (H, W) int32 of each image, or why there are none."""
    import segue

    loaded = segue.load(model)
    for path, picture in images:
        try:
            image = read_picture(path) if picture is None else picture
            if len(loaded.channels) == 1 and bool((image == image[:1]).all()):
                image = image[:1]  # gray, stored as colors
            if len(image) != len(loaded.channels):
                raise SegueError(
                    f"{path.name}: has {len(image)} channels, but the model takes {len(loaded.channels)} "
                    f"({', '.join(loaded.channels)}); choose another model."
                )
            yield path, segue.predict(loaded, image).astype(np.int32)
        except SegueError as error:
            yield path, error


def _rank(model: Path, labeled: list[Path], rest: list[Path]) -> Iterator[Path]:
    """Yields the image to label next."""
    import segue
    from segue.fitting.next_images import rank_images

    ranked = rank_images(segue.load(model), labeled, rest, progress=lambda done, total: None, log=lambda line: None)
    yield from [Path(one.image) for one in ranked[:1]]
