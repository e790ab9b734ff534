"""Test that texts of any language are compared word by word."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_sift.comparison.leaks import find_leaks
from langchain_sift.report.metrics import contains_answer, exact_match, token_f1
from langchain_sift.report.words import normalized, words_of

# The beginning of the Universal Declaration of Human Rights, article 1.
DECLARATION = {
    "Arabic": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "Armenian": "Բոլոր մարդիկ ծնվում են ազատ ու հավասար իրենց արժանապատվությամբ ու իրավունքներով։",
    "Bengali": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
    "Bulgarian": "Всички хора се раждат свободни и равни по достойнство и права.",
    "Burmese": "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် လည်းကောင်း မွေးဖွားလာသူများ ဖြစ်သည်။",
    "Chinese": "人人生而自由，在尊严和权利上一律平等。",
    "Chinese, traditional": "人人生而自由，在尊嚴和權利上一律平等。",
    "Czech": "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv.",
    "Danish": "Alle mennesker er født frie og lige i værdighed og rettigheder.",
    "Dutch": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren.",
    "English": "All human beings are born free and equal in dignity and rights.",
    "Finnish": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.",
    "French": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Georgian": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "Greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "Hebrew": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "Hungarian": "Minden emberi lény szabadon születik és egyenlő méltósága és joga van.",
    "Indonesian": "Semua orang dilahirkan merdeka dan mempunyai martabat dan hak-hak yang sama.",
    "Italian": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
    "Japanese": "すべての人間は、生れながらにして自由であり、尊厳と権利とについて平等である。",
    "Khmer": "មនុស្សទាំងអស់ កើតមកមានសេរីភាព និងសមភាព ក្នុងផ្នែកសេចក្ដីថ្លៃថ្នូរនិងសិទ្ធិ។",
    "Korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "Lao": "ມະນຸດທຸກຄົນເກີດມາມີກຽດສັກສີ, ສິດທິ, ເສລີພາບ ແລະ ຄວາມສະເໝີພາບເທົ່າທຽມກັນ.",
    "Persian": "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق با هم برابرند.",
    "Polish": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "Portuguese": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos.",
    "Romanian": "Toate ființele umane se nasc libere și egale în demnitate și în drepturi.",
    "Russian": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "Spanish": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "Swahili": "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
    "Swedish": "Alla människor är födda fria och lika i värde och rättigheter.",
    "Tamil": "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; அவர்கள் மதிப்பிலும் சமமானவர்கள்.",
    "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "Tibetan": "འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས་ཆེ་མཐོངས་དང༌། ཐོབ་ཐངགི་རང་དབང་འདྲ་མཉམ་དུ་ཡོད་ལ།",
    "Turkish": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
    "Ukrainian": "Всі люди народжуються вільними і рівними у своїй гідності та правах.",
    "Urdu": "تمام انسان آزاد اور حقوق و عزت کے اعتبار سے برابر پیدا ہوئے ہیں۔",
    "Vietnamese": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
    "Afrikaans": "Alle menslike wesens word vry, met gelyke waardigheid en regte, gebore.",
    "Albanian": "Të gjithë njerëzit lindin të lirë dhe të barabartë në dinjitet dhe në të drejta.",
    "Amharic": "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው።",
    "Azerbaijani": "Bütün insanlar ləyaqət və hüquqlarına görə azad bərabər doğulurlar.",
    "Basque": "Gizon-emakume guztiak aske jaiotzen dira, duintasun eta eskubide berberekin.",
    "Belarusian": "Усе людзі нараджаюцца свабоднымі і роўнымі ў сваёй годнасці і правах.",
    "Catalan": "Tots els éssers humans neixen lliures i iguals en dignitat i en drets.",
    "Cherokee": "ᏂᎦᏓ ᎠᏂᏴᏫ ᏂᎨᎫᏓᎸᎾ ᎠᎴ ᎤᏂᏠᏱ ᎤᎾᏕᎿ ᏚᏳᎧᏛ ᎨᏒᎢ.",
    "Croatian": "Sva ljudska bića rađaju se slobodna i jednaka u dostojanstvu i pravima.",
    "Esperanto": "Ĉiuj homoj estas denaske liberaj kaj egalaj laŭ digno kaj rajtoj.",
    "Estonian": "Kõik inimesed sünnivad vabadena ja võrdsetena oma väärikuselt ja õigustelt.",
    "Gujarati": "પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો જન્મથી સ્વતંત્ર અને સમાન હોય છે.",
    "Icelandic": "Hver maður er borinn frjáls og jafn öðrum að virðingu og réttindum.",
    "Irish": "Saolaítear na daoine uile saor agus comhionann ina ndínit agus ina gcearta.",
    "Javanese": "Kabèh manungsa lair kanthi mardika lan duwé martabat lan hak-hak kang padha.",
    "Kannada": "ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ ಹಾಗೂ ಘನತೆ ಮತ್ತು ಹಕ್ಕುಗಳಲ್ಲಿ ಸಮಾನರಾಗಿದ್ದಾರೆ.",
    "Kazakh": "Барлық адамдар тумысынан азат және қадір-қасиеті мен құқықтары тең болып туады.",
    "Latvian": "Visi cilvēki piedzimst brīvi un vienlīdzīgi savā pašcieņā un tiesībās.",
    "Lithuanian": "Visi žmonės gimsta laisvi ir lygūs savo orumu ir teisėmis.",
    "Macedonian": "Сите човечки суштества се раѓаат слободни и еднакви по достоинство и права.",
    "Malayalam": "മനുഷ്യരെല്ലാവരും തുല്യാവകാശങ്ങളോടും അന്തസ്സോടും സ്വാതന്ത്ര്യത്തോടും കൂടി ഈ ഭൂമിയിൽ ജനിച്ചിട്ടുള്ളവരാണ്.",
    "Marathi": "सर्व मानवी व्यक्ति जन्मतः स्वतंत्र आहेत व त्यांना समान प्रतिष्ठा व समान अधिकार आहेत.",
    "Mongolian": "Хүн бүр төрж мэндлэхдээ эрх чөлөөтэй, адилхан нэр төртэй, ижил эрхтэй байдаг.",
    "Nepali": "सबै व्यक्तिहरू जन्मजात स्वतन्त्र हुन् ती सबैको समान अधिकार र महत्व छ।",
    "Norwegian": "Alle mennesker er født frie og med samme menneskeverd og menneskerettigheter.",
    "Punjabi": "ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ ਆਪਣੀ ਮਹਿਮਾ, ਸ਼ਾਨ ਅਤੇ ਹੱਕਾਂ ਦੇ ਪੱਖੋਂ ਜਨਮ ਤੋਂ ਹੀ ਆਜ਼ਾਦ ਹੈ।",
    "Serbian": "Сва људска бића рађају се слободна и једнака у достојанству и правима.",
    "Sinhala": "සියලු මනුෂ්‍යයෝ නිදහස්ව උපත ලබා ඇත. ගරුත්වයෙන් හා අයිතිවාසිකම්වලින් සමාන වෙති.",
    "Slovenian": "Vsi ljudje se rodijo svobodni in imajo enako dostojanstvo in enake pravice.",
    "Telugu": "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును సమానులును నగుదురు అని తెలియును.",
    "Welsh": "Genir pawb yn rhydd ac yn gydradd â'i gilydd mewn urddas a hawliau.",
    "Yi": "ꊿꂷꃅꄿꐨꐥ，ꌅꅍꀂꏽꐯꒈꃅꐥꌐ。",
    "Yoruba": "Gbogbo ènìyàn ni a bí ní òmìnira; iyì àti ẹ̀tọ́ kọ̀ọ̀kan sì dọ́gba.",
    "Zulu": "Bonke abantu bazalwa bekhululekile belingana ngesithunzi nangamalungelo futhi bonke.",
}


def normalized_by_squad(text: str) -> str:
    """The official script of SQuAD 1.1, `normalize_answer`."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_is_normalized_as_in_squad(text: str) -> None:
    expected = normalized_by_squad(text)
    assert normalized(text) == (expected or " ".join(text.lower().split()))


@given(st.text(), st.text())
def test_scores_are_symmetric_and_a_text_equals_itself(one: str, other: str) -> None:
    assert exact_match(one, [one]) == token_f1(one, [one]) == 1.0
    assert token_f1(one, [other]) == pytest.approx(token_f1(other, [one]))
    assert exact_match(one, [other]) == exact_match(other, [one])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Côte d'Ivoire", "Co\u0302te d\u2019Ivoire"),
        ("ＡＢＣ１２３", "abc123"),
        ("the O\u02bcHiggins “Straße”", "o'higgins STRASSE"),
        ("3\u20135 km", "3-5 km"),
        ("¿Dónde?", "dónde"),
        ("「東京」", "東京。"),
    ],
)
def test_forms_of_the_same_answer_are_equal(one: str, other: str) -> None:
    assert exact_match(one, [other]) == token_f1(one, [other]) == contains_answer(one, [other]) == 1


@pytest.mark.parametrize(
    ("answer", "reference"), [("!", "?"), ("The The", "A"), ("+", "-"), ("", "the")]
)
def test_different_answers_of_punctuation_differ(answer: str, reference: str) -> None:
    assert exact_match(answer, [reference]) == 0.0


def test_words_of_a_script_without_spaces_are_its_characters() -> None:
    assert words_of("東京タワー 333m。") == ["東", "京", "タ", "ワ", "ー", "333m"]
    # Two of three characters of the answer, and two of four of the reference.
    assert token_f1("北京市", ["北京大学"]) == pytest.approx(2 * 2 / (3 + 4))
    assert contains_answer("首都是北京。", ["北京"]) == 1.0


def test_signs_that_only_tell_how_others_are_shown_do_not_count() -> None:
    for answer, reference in (
        ("\u200fالقاهرة\u200f", "القاهرة"),
        ("می\u200cخواهم", "میخواهم"),
        ("ක්\u200dෂය", "ක්ෂය"),
        ("exam\u00adple", "example"),
        ("ភ្នំ\u200bពេញ", "ភ្នំពេញ"),
    ):
        assert exact_match(answer, [reference]) == token_f1(answer, [reference]) == 1.0
        assert words_of(answer) == words_of(reference)


def test_vowel_signs_do_not_cut_words() -> None:
    assert words_of("हिन्दी में") == ["हिन्दी", "में"]


def test_every_language_is_scored() -> None:
    assert len(DECLARATION) >= 60
    for text in DECLARATION.values():
        check_scores(text)


def check_scores(text: str) -> None:
    words = normalized(text).split()
    assert len(words) >= 8
    part = " ".join(words[:4])
    assert exact_match(text, [text.rstrip(".。।؟։")]) == 1.0
    assert contains_answer(text, [part]) == 1.0
    assert 0.0 < token_f1(part, [text]) < 1.0
    assert contains_answer(part, [text]) == 0.0


def test_leaks_are_found_in_every_language() -> None:
    for language, text in DECLARATION.items():
        others = [(name, other) for name, other in DECLARATION.items() if name != language]
        found = find_leaks({"prompt": text}, others)
        assert found.keys() <= ({"prompt"} if "Chinese" in language else set()), language
        inside = [("copy", f"1) {text} (2)")]
        assert find_leaks({"prompt": text}, inside) == {"prompt": "an exact copy in copy"}
