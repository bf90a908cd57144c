"""A talking head, drawn with OpenCV on a canvas larger than the picture and reduced by area averaging.

Shapes are in the head coordinates of `brush.py`.
"""

from __future__ import annotations

import cv2
import numpy as np
from brush import ANGLES, Brush, Picture, Points, Pose, mix
from people import CLOTHES_COLORS, FRAMINGS, HAIR_COLORS, WALL_COLORS, Person, Scene, Shot
from phonemes import Viseme

_SMALLEST_CANVAS = 256
_RAISED = -0.015
"""How far the face's center is below the picture's, as a share of the shorter side."""
_MOUTH_Y = 0.56
_MOUTH_BOX = (-0.62, -0.24, 0.62, 0.6)
"""The box around the mouth, relative to its center, that holds the lips at every opening."""
_BOB = np.array([(1.2, 0.3), (1.16, 0.62), (0.8, 0.72), (-0.8, 0.72), (-1.16, 0.62), (-1.2, 0.3)])
"""The lower edge of a woman's short hair, from right to left."""


class HeadPainter:
    """Draws one person in one scene at one picture size."""

    def __init__(self, *, person: Person, scene: Scene, width: int, height: int) -> None:
        self.person = person
        self.scene = scene
        self.width, self.height = width, height
        self.factor = max(2, _SMALLEST_CANVAS // min(width, height))
        self._backgrounds = [self._background(shot) for shot in scene.shots]

    def picture(self, shot: int, mouth: Viseme, pose: Pose) -> Picture:
        """One frame, [H, W, 3] RGB."""
        brush = self._brush(shot, pose)
        brush.canvas[:] = self._backgrounds[shot]
        self._hair_behind(brush)
        self._body(brush)
        self._face(brush, mouth)
        self._eyes(brush, pose)
        self._nose(brush)
        self._beard(brush, mouth)
        self._mouth(brush, mouth)
        self._hair_in_front(brush)
        self._glasses(brush)
        reduced = cv2.resize(brush.canvas, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return np.asarray(reduced, np.uint8)

    def mouth_box(self, shot: int, pose: Pose) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 as fractions of the picture: a box that follows the mouth and holds it at every opening."""
        left, top, right, bottom = _MOUTH_BOX
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)]) + np.array([0, _MOUTH_Y])
        placed = self._brush(shot, pose).place(corners, depth=0.9) / self.factor / (self.width, self.height)
        low, high = np.clip(placed.min(0), 0, 1), np.clip(placed.max(0), 0, 1)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def _brush(self, index: int, pose: Pose) -> Brush:
        shot = self.scene.shots[index]
        side = min(self.width, self.height)
        scale = FRAMINGS[shot.framing] * side / 2 * self.factor
        middle = np.array([0.5 * self.width, 0.5 * self.height])
        center = middle + side * np.array([shot.shift[0], shot.shift[1] + _RAISED])
        size = (self.height * self.factor, self.width * self.factor)
        return Brush(canvas_size=size, scale=scale, center=center * self.factor, pose=pose)

    def _background(self, shot: Shot) -> Picture:
        height, width = self.height * self.factor, self.width * self.factor
        name = self.scene.background
        ys, xs = np.mgrid[0 : 1 : 1j * height, 0 : 1 : 1j * width]
        zoom = FRAMINGS[shot.framing] / FRAMINGS["medium shot"]
        if name == "garden":
            sky, grass = np.array([168, 208, 240]), np.array([96, 160, 80])
            bush = ys > 0.62 + 0.05 * np.sin(9 * xs / zoom) + 0.03 * np.sin(23 * xs / zoom)
            image = np.where(bush[..., None], grass - 40 * (ys[..., None] - 0.6), sky + 30 * ys[..., None])
        elif name == "red curtain":
            fold = 0.5 + 0.5 * np.sin(2 * np.pi * 5 * xs / zoom)
            image = np.array([150, 60, 66]) + 46 * fold[..., None]
        elif name == "window":
            image = np.array([206, 198, 184]) - 30 * ys[..., None] + np.zeros((height, width, 3))
            inside = (xs > 0.06) & (xs < 0.94) & (ys > 0.05) & (ys < 0.72)
            image[inside] = np.array([178, 220, 246])
            bars = inside & ((np.abs(xs - 0.5) < 0.025) | (np.abs(ys - 0.36) < 0.025))
            image[bars] = np.array([244, 242, 236])
        else:
            light = 1.1 - 0.28 * (0.6 * xs + 0.4 * ys)
            image = np.array(WALL_COLORS[name.removesuffix(" wall")]) * light[..., None]
        picture: Picture = np.clip(image, 0, 255).astype(np.uint8)
        return picture

    def _body(self, brush: Brush) -> None:
        person, color = self.person, CLOTHES_COLORS[self.scene.clothes_color]
        shade = mix(person.skin, (60, 20, 10), 0.22)
        broad = 1.75 if person.kind == "woman" else 2.05
        brush.polygon([(-0.42, 0.7), (0.42, 0.7), (0.5, 1.75), (-0.5, 1.75)], shade, moving=0.5)
        xs = np.linspace(-1, 1, 25)
        shoulders = np.stack([broad * xs, 1.45 + 0.55 * np.abs(xs) ** 3.2], 1)
        body = np.concatenate([shoulders, [(broad * 1.02, 6), (-broad * 1.02, 6)]])
        brush.polygon(body, color, moving=0.15)
        dark, light = mix(color, (0, 0, 0), 0.3), mix(color, (255, 255, 255), 0.3)
        neck = np.stack([0.52 * np.cos(ANGLES), 1.42 + 0.26 * np.sin(ANGLES)], 1)
        if self.scene.garment == "sweater":
            brush.polygon(neck * (1.22, 1.0) + (0, 0.06), dark, moving=0.15)
            brush.polygon(neck, shade, moving=0.15)
        elif self.scene.garment == "shirt":
            brush.polygon([(-0.5, 1.36), (0.5, 1.36), (0, 2.0)], shade, moving=0.15)
            brush.polygon([(-0.56, 1.3), (-0.4, 1.24), (0, 1.98), (-0.42, 2.0)], light, moving=0.15)
            brush.polygon([(0.56, 1.3), (0.4, 1.24), (0, 1.98), (0.42, 2.0)], light, moving=0.15)
        else:
            brush.polygon([(-0.55, 1.36), (0.55, 1.36), (0, 3.2)], (240, 240, 238), moving=0.15)
            brush.polygon([(-0.34, 1.36), (0.34, 1.36), (0, 1.7)], shade, moving=0.15)
            brush.polygon([(-0.6, 1.3), (0, 3.2), (-0.9, 2.2), (-0.95, 1.5)], dark, moving=0.15)
            brush.polygon([(0.6, 1.3), (0, 3.2), (0.9, 2.2), (0.95, 1.5)], dark, moving=0.15)

    def _outline(self, opening: float, grow: float = 1.0) -> Points:
        """The face's outline; the chin goes down with the jaw."""
        person = self.person
        cos, sin = np.cos(ANGLES), np.sin(ANGLES)
        power = np.where(sin > 0, 2 / person.jaw, 1.0)
        x = np.sign(cos) * np.abs(cos) ** power * (1 - 0.16 * np.clip(sin, 0, 1) ** 1.5)
        low = person.face_length + 0.14 * opening
        y = np.where(sin > 0, low * np.abs(sin) ** power, person.face_length * sin)
        return np.stack([x, y], 1) * grow

    def _face(self, brush: Brush, mouth: Viseme) -> None:
        skin = self.person.skin
        shade = mix(skin, (90, 30, 20), 0.2)
        if not self._is_hair_over_ears:
            for side in (-1, 1):
                brush.ellipse((side * 1.0, 0.04), (0.15, 0.24), shade)
                brush.ellipse((side * 1.01, 0.04), (0.08, 0.15), mix(skin, (120, 30, 30), 0.3))
        outline = self._outline(mouth.opening)
        brush.polygon(outline, shade)
        brush.polygon(outline * (0.9, 0.955) + (-0.07, -0.035), skin, depth=0.05)
        blush = mix(skin, (226, 96, 90), 0.22 if self.person.kind == "woman" else 0.1)
        for side in (-1, 1):
            brush.ellipse((side * 0.58, 0.3), (0.2, 0.14), blush, depth=0.5)
        if self.person.age == "old":
            line = mix(skin, (80, 40, 30), 0.42)
            for side in (-1, 1):
                brush.curve([(side * 0.3, 0.3), (side * 0.46, 0.42), (side * 0.54, 0.56)], line, 0.035, depth=0.7)
            for y in (-0.66, -0.54):
                brush.curve([(-0.34, y + 0.02), (0, y), (0.34, y + 0.02)], line, 0.03, depth=0.5)

    def _eyes(self, brush: Brush, pose: Pose) -> None:
        person = self.person
        size, y = person.eye_size, -0.14
        brow = mix(HAIR_COLORS[person.hair_color], (40, 24, 20), 0.45)
        for side in (-1, 1):
            x = side * person.eye_spacing
            lid = mix(person.skin, (70, 30, 30), 0.3)
            brush.ellipse((x, y), (size * 1.2, size * 0.9), lid, depth=0.7)
            height = size * 0.78 * (1 - pose.blink)
            if height > 0.25 * size:
                brush.ellipse((x, y), (size * 1.1, height), (250, 250, 248), depth=0.7)
                iris = (x + 0.2 * pose.turn, y)
                brush.ellipse(iris, (size * 0.56, min(height, size * 0.6)), person.eye_color, depth=0.75)
                brush.ellipse(iris, (size * 0.28, min(height, size * 0.3)), (16, 14, 16), depth=0.75)
            lash = y - height
            weight = 0.05 if person.kind == "man" else 0.075
            inner, outer = x - side * size * 1.1, x + side * size * 1.25
            lashes = [(inner, lash + 0.35 * height), (x, lash), (outer, lash + 0.4 * height)]
            brush.curve(lashes, (34, 24, 26), weight, depth=0.75)
            up = y - person.brow_height - 0.06 * pose.brows
            arch = [(x - side * size * 1.2, up + 0.03), (x, up - 0.045), (x + side * size * 1.45, up + 0.05)]
            brush.curve(arch, brow, 0.1 if person.kind == "man" else 0.07, depth=0.6)

    def _nose(self, brush: Brush) -> None:
        length = self.person.nose_length
        shade = mix(self.person.skin, (100, 40, 26), 0.3)
        brush.polygon([(0.03, -0.1), (0.17, length - 0.08), (0.1, length), (-0.02, length)], shade, depth=1.0)
        brush.ellipse((-0.02, length - 0.05), (0.13, 0.075), mix(self.person.skin, (255, 250, 240), 0.14), depth=1.1)
        for side in (-1, 1):
            brush.ellipse((side * 0.075, length), (0.04, 0.026), mix(shade, (40, 10, 10), 0.5), depth=1.0)

    def _beard(self, brush: Brush, mouth: Viseme) -> None:
        if not self.person.beard:
            return
        color = mix(HAIR_COLORS[self.person.hair_color], (0, 0, 0), 0.1)
        outline = self._outline(mouth.opening, 1.02)
        low = outline[outline[:, 1] >= 0.08]
        low = low[np.argsort(-low[:, 0])]
        inner = [(-0.78, 0.12), (-0.64, 0.36), (-0.3, 0.4), (0, 0.42), (0.3, 0.4), (0.64, 0.36), (0.78, 0.12)]
        brush.polygon(np.concatenate([low, np.array(inner)]), color, depth=0.25)

    def _mouth(self, brush: Brush, mouth: Viseme) -> None:
        person = self.person
        spread = 0.40 + 0.14 * (mouth.width - 0.5)
        half = person.mouth_size * (spread * (1 - mouth.rounding) + 0.23 * mouth.rounding)
        height = 0.5 * person.mouth_size * mouth.opening
        fullness = person.lip_fullness * (1 + 0.35 * mouth.rounding)
        u = np.linspace(-1, 1, 21)
        bow = 1 - u**2
        top = _MOUTH_Y - 0.3 * height * bow**0.8
        bottom = _MOUTH_Y + 0.7 * height * bow**0.6
        x = half * u
        outer_x = (half + 0.045) * u
        cupid = 1 - 0.22 * np.exp(-((u / 0.16) ** 2))
        upper = top - 0.105 * fullness * bow**0.55 * cupid
        lower = bottom + 0.135 * fullness * bow**0.6
        lip = (190, 56, 66) if person.kind == "woman" else (188, 92, 86)
        color = mix(lip, person.skin, 0.12)
        brush.polygon(_band(outer_x, upper, lower), mix(color, (60, 0, 10), 0.15), depth=0.9)
        brush.polygon(_band(x * 0.92, bottom + 0.01, lower - 0.012), color, depth=0.9)
        if height > 0.02:
            brush.polygon(_band(x, top, bottom), (52, 10, 16), depth=0.9)
            tongue = np.maximum(bottom - 0.34 * height * bow, top)
            if mouth.opening > 0.35:
                brush.polygon(_band(x * 0.72, tongue, bottom), (196, 84, 92), depth=0.9)
            if mouth.teeth > 0.08:
                edge = np.minimum(top + (0.06 + 0.1 * mouth.teeth) * bow**0.3 * min(1.0, 2.5 * mouth.teeth), bottom)
                brush.polygon(_band(x * 0.9, top, edge), (246, 244, 238), depth=0.9)
        else:
            brush.curve(list(zip(x, top, strict=True)), mix(color, (30, 0, 10), 0.6), 0.035, depth=0.9)

    @property
    def _is_hair_over_ears(self) -> bool:
        return self.person.kind == "woman" and self.person.hair_style in ("long", "short")

    def _hair_behind(self, brush: Brush) -> None:
        style, color = self.person.hair_style, mix(HAIR_COLORS[self.person.hair_color], (0, 0, 0), 0.25)
        top = -self.person.face_length
        if style == "long":
            arc = np.stack([1.2 * np.cos(ANGLES), np.where(np.sin(ANGLES) > 0, 0, 1.18 * top * -np.sin(ANGLES))], 1)
            upper = arc[np.sin(ANGLES) <= 0]
            brush.polygon(np.concatenate([upper, [(1.3, 1.0), (1.12, 1.75), (-1.12, 1.75), (-1.3, 1.0)]]), color)
        elif style == "short" and self.person.kind == "woman":
            bob = np.concatenate([np.stack([1.15 * np.cos(ANGLES[36:]), -1.1 * top * np.sin(ANGLES[36:])], 1), _BOB])
            brush.polygon(bob, color)
        elif style == "tied":
            brush.ellipse((0, top * 1.17), (0.42, 0.34), color)
        elif style == "curly":
            for angle in np.linspace(-0.25, np.pi + 0.25, 13):
                brush.ellipse((1.05 * np.cos(angle), 0.96 * top * np.sin(angle)), (0.3, 0.3), color)

    def _hair_in_front(self, brush: Brush) -> None:
        style, color = self.person.hair_style, HAIR_COLORS[self.person.hair_color]
        if style == "bald":
            return
        length = self.person.face_length
        grow = {"short": 1.06, "long": 1.1, "curly": 1.04, "tied": 1.04}[style]
        side_y = {"short": -0.1, "long": 0.1, "curly": -0.3, "tied": -0.2}[style]
        angles = np.linspace(np.pi + np.arcsin(-side_y / length), 2 * np.pi - np.arcsin(-side_y / length), 31)
        outer = np.stack([grow * np.cos(angles), grow * length * np.sin(angles)], 1)
        part, rise = {"short": (0.3, 0.14), "long": (0.22, 0.2), "curly": (0.0, 0.06), "tied": (0.1, 0.1)}[style]
        line = -0.66 * length / 1.2
        inner = [
            (0.95, side_y + 0.02),
            (0.88, line * 0.66),
            (0.62, line - 0.06),
            (part, line - rise),
            (-0.4, line + 0.02),
            (-0.86, line * 0.62),
            (-0.95, side_y + 0.02),
        ]
        brush.polygon(np.concatenate([outer, np.array(inner)]), color, depth=0.1)
        shine = mix(color, (255, 255, 255), 0.2)
        brush.curve([(-0.7, -0.86 * length), (-0.4, -0.97 * length), (0.0, -1.0 * length)], shine, 0.06, depth=0.1)
        if style == "curly":
            for x in np.linspace(-0.8, 0.8, 6):
                brush.ellipse((x, line * (1.18 - 0.25 * x * x)), (0.2, 0.17), color, depth=0.1)

    def _glasses(self, brush: Brush) -> None:
        if not self.person.glasses:
            return
        spacing, y, frame = self.person.eye_spacing, -0.12, (30, 30, 36)
        ring = np.stack([0.3 * np.cos(ANGLES), 0.25 * np.sin(ANGLES)], 1)
        for side in (-1, 1):
            placed = ring + np.array([side * spacing, y])
            brush.curve([*placed, placed[0]], frame, 0.05, depth=0.8)
            brush.curve([(side * (spacing + 0.3), y - 0.03), (side * 0.99, y - 0.08)], frame, 0.05, depth=0.4)
        brush.curve([(-spacing + 0.28, y), (0, y - 0.05), (spacing - 0.28, y)], frame, 0.05, depth=0.9)


def _band(x: Points, top: Points, bottom: Points) -> Points:
    return np.concatenate([np.stack([x, top], 1), np.stack([x, bottom], 1)[::-1]])
