"""Names of months in English, German, French, Spanish, Italian, Portuguese, Dutch and Russian."""

_NAMES = """
january jan januar janvier janv enero ene gennaio gen janeiro januari января янв
february feb februar février fevrier févr febrero febbraio fevereiro fev februari февраля фев
march mar märz mrz mars marzo março maart mrt марта мар
april apr avril avr abril abr aprile апреля апр
may mai mayo maggio mag maio mei мая май
june jun juni juin junio giugno giu junho июня июн
july jul juli juillet juil julio luglio lug julho июля июл
august aug août aout agosto ago augustus августа авг
september sep sept septembre septiembre settembre set setembro сентября сен сент
october oct oktober okt octobre octubre ottobre ott outubro out октября окт
november nov novembre noviembre novembro ноября ноя
december dec dez dezember décembre déc diciembre dic dicembre dezembro декабря дек
"""

#: The number of each name, in small letters.
MONTHS = {
    name: number
    for number, names in enumerate(_NAMES.strip().splitlines(), start=1)
    for name in names.split()
}
