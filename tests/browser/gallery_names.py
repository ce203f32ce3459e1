"""Names that a gallery has to get along with."""

HOSTILE = "<img src=x onerror=alert(1)> ‮evil‬ $x$ **bold**"
LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
ARABIC = "قطة صغيرة"
